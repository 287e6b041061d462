"""What prompt-learning methods share: loading CLIP, precision, the training step, learned
checkpoints.

A method is three things on top of this file:

- a ``PromptLearner``: the learned tensors, and nothing else that trains;
- a ``PromptedCLIP``: how logits and the loss come about from a frozen CLIP and that learner;
- a ``PromptTrainer``: its name in the registry, its defaults and how the two above are built.

``trainers/template.py`` is the smallest complete example.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from clip.compiled import compile_blocks
from clip.text import SharedText, common_prefix_length, end_positions, share_text
from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint
from datasets.templates import CUSTOM_TEMPLATES

PRECISIONS = ("fp32", "fp16", "amp", "bf16")
DTYPES = {
    "fp32": torch.float32,
    "amp": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision a run really has: ``fp16`` and ``amp`` are CUDA's, on a CPU they mean ``fp32``.

    Raises:
        ValueError: not one of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"PREC {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if device.type == "cpu" and precision in ("fp16", "amp"):
        print(f"Precision: {precision} needs a GPU; running in fp32 on the CPU")
        return "fp32"
    return precision


def load_clip(cfg: Any, precision: str, device: torch.device) -> clip.model.CLIP:
    """The frozen backbone that ``cfg.MODEL.BACKBONE.NAME`` names, in the given precision.

    Raises:
        ValueError: the data transforms make images of another size than the backbone takes.
    """
    name = cfg.MODEL.BACKBONE.NAME
    model = clip.load_model(name, device=device, dtype=DTYPES[precision])
    resolution = model.visual.input_resolution
    if tuple(cfg.INPUT.SIZE) != (resolution, resolution):
        raise ValueError(
            f"INPUT.SIZE {tuple(cfg.INPUT.SIZE)} does not fit backbone {name or 'small'!r}: "
            f"set INPUT.SIZE ({resolution},{resolution})"
        )
    apply_speed_settings(cfg, model)
    return model.requires_grad_(False).eval()


def apply_speed_settings(cfg: Any, model: clip.model.CLIP) -> None:
    """``MODEL.CLASSES_AT_ONCE`` and ``INEXACT``, where the configuration has them."""
    model.transformer.classes_at_once = cfg.MODEL.get("CLASSES_AT_ONCE", 0)
    inexact = cfg.get("INEXACT", {})
    # PyTorch has it on for convolutions unless told otherwise.
    torch.backends.cudnn.allow_tf32 = bool(inexact.get("TF32"))
    if inexact.get("TF32"):
        torch.set_float32_matmul_precision("high")
    if inexact.get("COMPILE"):
        compile_blocks(model, mode=inexact.COMPILE)


def require_vit(model: clip.model.CLIP, method: str) -> None:
    """Raise ValueError unless the image tower is a ViT, which visual prompts need."""
    if not isinstance(model.visual, clip.model.VisionTransformer):
        raise ValueError(
            f"{method} puts prompts into the image tower and needs a ViT backbone: "
            "set MODEL.BACKBONE.NAME to one, e.g. ViT-B/16"
        )


def setting_for(dataset: str, value: float | None, table: dict) -> float:
    """A setting that may depend on the *training* data set.

    ``value`` if one is set; else the table's entry for the data set, its ``default`` entry, or 1.
    """
    return float(value if value is not None else table.get(dataset, table.get("default", 1.0)))


def dataset_template(dataset: str) -> str:
    """The hand-written prompt of a data set, "a photo of a {}." for one that has none."""
    return CUSTOM_TEMPLATES.get(dataset, "a photo of a {}.")


def prompt_template(cfg: Any) -> str:
    """The hand-written prompt of a run: ``DATASET.TEMPLATE``, or the data set's own.

    Raises:
        ValueError: the setting has no place for the class name.
    """
    template = cfg.DATASET.get("TEMPLATE") or dataset_template(cfg.DATASET.NAME)
    if "{}" not in template:
        raise ValueError(f"DATASET.TEMPLATE {template!r}: it needs {{}} for the class name")
    return template


def grad_if_image_asks(image: Tensor) -> torch.set_grad_enabled:
    """For frozen parts of a model: no graph, except to the pixels when an attack asks for it."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and image.requires_grad)


class TokenizedPrompts(nn.Module):
    """Class prompts as CLIP reads them, cut at the last end token.

    Attributes:
        tokens: (C, L) token ids.
        embeddings: (C, L, D) token embeddings, no positions added.
        eot: (C,) position of the end token.
        shared: leading positions that all prompts have in common (at least the start token).
    """

    def __init__(self, clip_model: clip.model.CLIP, prompts: list[str]):
        super().__init__()
        tokens = clip.tokenize(prompts).to(clip_model.positional_embedding.device)
        eot = end_positions(tokens)
        tokens = tokens[:, : int(eot.max()) + 1]
        self.shared = common_prefix_length(tokens)
        self.register_buffer("tokens", tokens, persistent=False)
        self.eot = eot.cpu()  # lengths decide shapes: on a GPU, asking for them would wait
        with torch.no_grad():
            embeddings = clip_model.token_embedding(tokens)
        self.register_buffer("embeddings", embeddings, persistent=False)

    def shared_text(self, clip_model: clip.model.CLIP, context: Tensor | None = None) -> SharedText:
        """Block 0's input; ``context`` (n, D) or (G, n, D) stands at positions 1 .. n.

        The context must lie within the shared beginning.
        """
        start, own = self.embeddings[0, : self.shared], self.embeddings[:, self.shared :]
        if context is not None:
            n_ctx = context.shape[-2]
            before, after = start[:1], start[1 + n_ctx :]
            if context.dim() == 3:
                before, after = (x.expand(len(context), -1, -1) for x in (before, after))
            start = torch.cat([before, context.to(start.dtype), after], dim=-2)
        return share_text(clip_model, start, own, self.eot - self.shared)


class PromptLearner(nn.Module):
    """Base of a method's learned module: all its parameters train, in fp32, and nothing else does.

    Values derived from the parameters may be kept while the module is in eval mode (``cached``).
    Any change of mode and any loading of weights forgets them.

    Attributes:
        per_class: names of parameters that belong to the classes of training, one row a class, with
            the setting that learns for all classes instead ("" where there is none). They are not
            read for other classes.
    """

    def __init__(self):
        super().__init__()
        self.per_class: dict[str, str] = {}
        self._cache: dict[str, Any] = {}
        self.register_load_state_dict_post_hook(lambda module, keys: module._cache.clear())

    def train(self, mode: bool = True) -> PromptLearner:
        self._cache.clear()
        return super().train(mode)

    def learned_tokens(self) -> dict[str, tuple[nn.Parameter, Tensor]]:
        """Learned tokens by name, each with what reaches the towers of it (the same shape).

        By default the parameters of this module and of its parameter lists; what a linear map
        learns is no token. The evaluation of noise on learned tokens scales it by the second.
        """
        owners = {"": self}
        owners |= {
            f"{name}.": child
            for name, child in self.named_children()
            if isinstance(child, nn.ParameterList)
        }
        return {
            prefix + name: (parameter, parameter.detach())
            for prefix, owner in owners.items()
            for name, parameter in owner.named_parameters(recurse=False)
        }

    def cached(self, name: str, compute: Callable[[], Any]) -> Any:
        """``compute()``, evaluated once per evaluation; always anew in training mode."""
        if self.training:
            return compute()
        if name not in self._cache:
            self._cache[name] = compute()
        return self._cache[name]


class PromptedCLIP(nn.Module):
    """A frozen CLIP steered by a learner. A method fills in ``text_features`` and, where it goes
    beyond text prompts and cross-entropy, ``image_features``, ``loss``, or ``encode``,
    ``class_state`` and ``classify``.

    The logits are ``classify(encode(image), class_state())``: what is known of the images, what is
    known of the classes, and the meeting of both. So either can be computed once and kept while
    the other changes.

    Attributes:
        rule: the inference rule whose logits ``forward`` gives.
    """

    rule = "class"

    def __init__(self, clip_model: clip.model.CLIP, prompt_learner: PromptLearner):
        super().__init__()
        self.clip = clip_model
        self.prompt_learner = prompt_learner

    @property
    def scale(self) -> Tensor:
        """CLIP's logit scale tau, exp(logit_scale)."""
        return self.clip.logit_scale.exp().float()

    def text_features(self) -> Tensor:
        """Normalised class features (C, E)."""
        raise NotImplementedError

    def image_features(self, image: Tensor) -> Tensor:
        """Normalised image features (B, E); by default frozen CLIP's."""
        with grad_if_image_asks(image):
            return F.normalize(self.clip.encode_image(image).float(), dim=-1)

    def encode(self, image: Tensor) -> Any:
        """What the logits need of images (B, 3, H, W), whatever the classes are."""
        return self.image_features(image)

    def class_state(self) -> Any:
        """What the logits need of the classes, whatever the images are; kept for an evaluation."""
        return self.prompt_learner.cached("text_features", self.text_features)

    def classify(self, encoded: Any, class_state: Any) -> dict[str, Tensor]:
        """Logits (B, C) under each inference rule."""
        return {self.rule: self.scale * encoded @ class_state.t()}

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, C)."""
        return self.classify(self.encode(image), self.class_state())[self.rule]

    def inference_rules(self, image: Tensor) -> dict[str, Tensor] | None:
        """``classify``'s logits for these images; None for a method that has one rule only."""
        return None

    def loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Training loss and the logits (B, C) that the reported accuracy is taken from."""
        logits = self(image)
        return F.cross_entropy(logits, label), logits


def _check_form(path: pathlib.Path, checkpoint: dict) -> None:
    """Raise ValueError unless a checkpoint has a state_dict of tensors."""
    tensors, meta = checkpoint.get("state_dict"), checkpoint.get("meta", {})
    if not isinstance(tensors, dict) or not isinstance(meta, dict):
        raise ValueError(f"{path}: not a training's checkpoint, it has no state_dict and meta")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{path}: its state_dict holds {name!r}, which is no tensor")


def _without_numbers(name: str) -> str:
    """A tensor's name whatever layer it is of: "projections.3.weight" as "projections.#.weight"."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name)


class PromptTrainer(TrainerX):
    """The training step, checkpoints and evaluation that all methods share.

    Class attributes a method sets:
        method: name of its node under ``cfg.TRAINER``.
        model_name: registered name, and so the checkpoint folder's (upstream's, where there is
        one).
    """

    method = ""
    model_name = "prompt_learner"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        """Add the method's defaults to ``cfg``."""

    @staticmethod
    def open_prompts(cfg: Any) -> str:
        """Change ``cfg`` so that ``build_prompted_clip`` takes whole prompts for class names.

        Text noise needs this: it perturbs all words of a prompt, not only those of the name.

        Returns:
            The words that whoever writes the prompts has to bring, ``{}`` for the class name. A
            method that learns the words before the name returns those that it does not learn.
        """
        template = prompt_template(cfg)
        cfg.DATASET.TEMPLATE = "{}"
        return template

    @staticmethod
    def training_noise(cfg: Any) -> tuple[list[str], list[int]]:
        """Kinds of text noise that training meets, and its noise seeds; most methods meet none."""
        return [], []

    def check_cfg(self, cfg: Any) -> None:
        resolve_precision(cfg.TRAINER[self.method].PREC, torch.device("cuda"))

    def build_prompted_clip(
        self, clip_model: clip.model.CLIP, classnames: list[str]
    ) -> PromptedCLIP:
        """The method's model for these class names (underscores already replaced by spaces)."""
        raise NotImplementedError

    def build_model(self) -> None:
        cfg = self.cfg
        self.precision = resolve_precision(cfg.TRAINER[self.method].PREC, self.device)
        clip_model = load_clip(cfg, self.precision, self.device)
        classnames = [name.replace("_", " ") for name in self.dm.dataset.classnames]
        self.model = self.build_prompted_clip(clip_model, classnames).to(self.device)
        learner = self.model.prompt_learner
        if cfg.MODEL.INIT_WEIGHTS:
            self._take_learned(pathlib.Path(cfg.MODEL.INIT_WEIGHTS), parameters_only=True)
        learned = sum(p.numel() for p in learner.parameters())
        print(f"Learned parameters: {learned:,} in {len(list(learner.parameters()))} tensors")
        self.optim = build_optimizer(learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model(self.model_name, learner, self.optim, self.sched)
        self.scaler = torch.amp.GradScaler("cuda") if self.precision == "amp" else None

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.precision == "amp":
            return torch.autocast(self.device.type, dtype=torch.float16)
        return contextlib.nullcontext()

    def forward_backward(self, batch: dict) -> dict[str, Tensor]:
        image, label = self.parse_batch_train(batch)
        with self.autocast():
            loss, logits = self.model.loss(image, label)
        if self.scaler is None:
            self.model_backward_and_update(loss)
        else:
            self.detect_anomaly(loss)
            self.model_zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optim)
            self.scaler.update()
        summary = {
            "loss": loss.detach(),
            "acc": compute_accuracy(logits.detach(), label)[0].detach(),
        }
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return summary

    def parse_batch_train(self, batch: dict) -> tuple[Tensor, Tensor]:
        image = batch["img"].to(self.device, non_blocking=True)
        return image, batch["label"].to(self.device, non_blocking=True)

    def model_inference(self, image: Tensor) -> Tensor:
        return self.model(image)

    def model_inference_rules(self, image: Tensor) -> dict[str, Tensor] | None:
        return self.model.inference_rules(image)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load learned tensors from a run's folder, ours or an upstream repository's.

        Args:
            directory: the run's output folder; empty does nothing, as upstream.
            epoch: which epoch's file; None takes ``model-best.pth.tar`` if there is one, else the
                file that the folder's ``checkpoint`` names.

        Raises:
            FileNotFoundError: no such checkpoint.
            ValueError: the checkpoint holds other tensors than this method learns.
        """
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        folder = pathlib.Path(directory) / self.model_name
        if epoch is not None:
            path = folder / f"model.pth.tar-{epoch}"
        else:
            path = folder / "model-best.pth.tar"
            pointer = folder / "checkpoint"
            if not path.exists() and pointer.exists():
                path = folder / pointer.read_text().strip()
        if not path.is_file():
            raise FileNotFoundError(
                f"no checkpoint {path}: train first, or name the run's folder with --model-dir "
                "and its epoch with --load-epoch"
            )
        checkpoint = self._take_learned(path)
        self.trained_epochs = checkpoint.get("epoch")
        if not getattr(self, "train_seconds", 0):  # not trained in this process
            self.train_seconds = checkpoint.get("meta", {}).get("train_seconds", 0.0)
        self.loaded(checkpoint)
        print(f'Loaded "{path}" (epoch {self.trained_epochs})')

    def _take_learned(self, path: pathlib.Path, parameters_only: bool = False) -> dict:
        """Put a checkpoint's learned tensors into the model; returns the checkpoint.

        Args:
            parameters_only: leave out what was made for the classes of that training.
        """
        checkpoint = load_checkpoint(str(path))
        _check_form(path, checkpoint)
        self.check_checkpoint(path, checkpoint)
        learner = self.model.prompt_learner
        wanted = dict(learner.named_parameters()) if parameters_only else learner.state_dict()
        found, ignored = {}, []
        for name, tensor in checkpoint["state_dict"].items():
            own_name = self.own_name(name)
            if own_name in wanted:
                found[own_name] = tensor.to(wanted[own_name].dtype)
            else:
                ignored.append(name)
        missing = sorted(set(wanted) - set(found))
        if missing:
            raise ValueError(f"{path}: not a {type(self).__name__} checkpoint, no {missing[0]!r}")
        for name, tensor in found.items():
            if tensor.shape != wanted[name].shape:
                raise ValueError(
                    f"{path}: {name} has shape {tuple(tensor.shape)}, this run needs "
                    f"{tuple(wanted[name].shape)}; use the training run's configuration"
                )
        kinds = {_without_numbers(name) for name in wanted}
        for name in ignored:
            if _without_numbers(self.own_name(name)) in kinds:
                raise ValueError(
                    f"{path}: {name} has no place in this run, whose prompts reach fewer layers; "
                    "use the training run's configuration"
                )
        if ignored:
            parts = Counter(name.split(".")[0] for name in ignored)
            listed = ", ".join(f"{part} ({count})" for part, count in parts.items())
            print(f"Ignored {len(ignored)} tensors that this method does not learn: {listed}")
        learner.load_state_dict({**learner.state_dict(), **found})
        return checkpoint

    def checkpoint_meta(self, epoch: int, model_name: str) -> dict[str, Any]:
        meta = super().checkpoint_meta(epoch, model_name)
        here = self.cfg.DATASET
        return {**meta, "dataset": here.NAME, "subsample_classes": here.SUBSAMPLE_CLASSES}

    def check_checkpoint(self, path: pathlib.Path, checkpoint: dict) -> None:
        """Raise ValueError if what was learned there has no meaning in this run.

        Parameters of each class's own serve the classes they were learned for. Upstream loads them
        for any classes of the same number. Its files do not say for which classes they were
        learned, so there only the number is checked.
        """
        learner = self.model.prompt_learner
        if not learner.per_class:
            return
        meta, here = checkpoint.get("meta", {}), self.cfg.DATASET
        same = meta.get("dataset", here.NAME) == here.NAME
        same &= meta.get("subsample_classes", here.SUBSAMPLE_CLASSES) == here.SUBSAMPLE_CLASSES
        found = {self.own_name(name): tensor for name, tensor in checkpoint["state_dict"].items()}
        own = dict(learner.named_parameters())
        for name, setting in learner.per_class.items():
            if not same or len(found.get(name, own[name])) != len(own[name]):
                hint = f". Train with {setting} to test on other classes" if setting else ""
                raise ValueError(
                    f"{path}: {name!r} was learned for each class of its training; this run has "
                    f"other classes{hint}"
                )

    def own_name(self, name: str) -> str:
        """The learner's name for a tensor of a checkpoint, ours or upstream's."""
        return name.removeprefix("prompt_learner.")

    def loaded(self, checkpoint: dict) -> None:
        """Called with each checkpoint that `load_model` read."""
