"""PromptKD: a student's image tower learns to answer as a larger teacher, on images without labels.

First a teacher is trained, PromptSRC on a larger CLIP, on the run's labelled images. Then prompts
in the student's image tower, and a small network that takes its features to the teacher's width,
learn from all training images of **all classes, base and new, without their labels**: the loss is
the divergence of the student's answers from the teacher's. Both answer with the teacher's features
of the class names, the only ones there are; so answering needs the teacher's text tower, and not
its image tower. Its results stand in a section of their own: other methods see a few labelled
images of base classes.

The teacher's training is kept in the run's folder, ``teacher``. TRAINER.PROMPTKD.TEACHER_PROMPTS
takes the file of one that was trained before, ours or upstream's.

Where upstream is mended here: its code tests the epoch that was best on the base classes' test
images (ours: the last), and its amp does not run. Across data sets upstream trains a student on the
training images of each target; here, as for every method, on those of the source alone [O].

References:
    [0] Li et al., PromptKD: Unsupervised Prompt Distillation for Vision-Language Models, 2024,
        https://arxiv.org/abs/2403.02781
"""

from __future__ import annotations

import logging
import os
import pathlib
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from clip.weights import names
from common.errors import UsageError
from common.settings import Setting, declare
from dassl.data.data_manager import build_data_loader
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY

from .backbone import NeedsViT
from .base import (
    ClassPrompts,
    Loss,
    PromptedCLIP,
    PromptLearner,
    PromptTrainer,
    TrainingBatch,
    backbone_of,
    load_clip,
    load_learned,
    read_learned,
    require_vit,
    setting_for,
    trained_classnames,
)
from .ivlp import IndependentPromptLearner
from .promptsrc import PromptSRC, SelfRegulatedCLIP
from .settings import by_dataset, count, declare_method, precision
from .teachers import TeacherTraining, own_random_numbers
from .vpt import check_depth, random_prompts, raw_prompted_image_features

logger = logging.getLogger(__name__)

TEACHER_NAME = "TRAINER.PROMPTKD.TEACHER_NAME"
LARGE = "ViT-L/14"  # upstream's teacher, which takes images of the size that these do
ITS_STUDENTS = ("ViT-B/32", "ViT-B/16")


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence of the student's answers from the teacher's.

    Args:
        student, teacher: logits (B, C).

    Returns:
        Scalar: the sum, times the squared temperature, divided by B x C as the authors' code has it
        (the paper: by B).
    """
    divergence = F.kl_div(
        (student / temperature).log_softmax(dim=-1),
        (teacher / temperature).log_softmax(dim=-1),
        reduction="sum",
        log_target=True,
    )
    return divergence * temperature**2 / student.numel()


class DistilledPromptLearner(PromptLearner):
    """Learned: ``vision_prompts`` (n, Dv) and ``project``, E -> E' -> E', the teacher's width.

    Beside them, as they are needed to answer, ``teacher`` holds the teacher's prompts.
    """

    def __init__(
        self,
        settings: Any,
        clip_model: clip.model.CLIP,
        teacher: IndependentPromptLearner,
        out: int,
    ):
        super().__init__()
        device = clip_model.positional_embedding.device
        width = clip_model.visual.transformer.width
        depth, n_tokens = settings.PROMPT_DEPTH_VISION, settings.N_CTX_VISION
        self.vision_prompts = random_prompts(depth, n_tokens, width, device)
        embedding = clip_model.text_projection.shape[1]
        self.project = nn.Sequential(
            nn.Linear(embedding, out, device=device),
            nn.BatchNorm1d(out, device=device),
            nn.ReLU(),
            nn.Linear(out, out, device=device),
        )
        self.teacher = _as_constants(teacher)


def _as_constants(learner: IndependentPromptLearner) -> IndependentPromptLearner:
    """Make buffers of all of a learner's parameters: saved, and never trained."""
    for module in list(learner.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return learner


class DistilledCLIP(PromptedCLIP):
    """A student, and its teacher.

    Args:
        teacher: its learner is part of ``learner``.
        teacher_weights: digest of its backbone's file.
        weight: of the loss.
    """

    only_for_texts = ("teacher",)
    taught_text: Tensor  # (C', E'), of the classes that are distilled, once training is prepared

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: DistilledPromptLearner,
        prompts: ClassPrompts,
        *,
        teacher: SelfRegulatedCLIP,
        teacher_weights: str,
        temperature: float,
        weight: float,
    ):
        super().__init__(clip_model, learner, prompts)
        self.teacher = teacher
        self.teacher_weights = teacher_weights
        self.temperature = temperature
        self.weight = weight
        self.register_buffer("taught_text", None, persistent=False)

    @property
    def text_clip(self) -> clip.model.CLIP:
        return self.teacher.clip

    def text_features(self) -> Tensor:
        return self.teacher.text_features()

    def raw_image_features(self, image: Tensor) -> Tensor:
        learner = self.prompt_learner
        embedded = self.clip.visual.embed(image.type(self.clip.dtype))
        prompts = list(learner.vision_prompts)
        features: Tensor = learner.project(
            raw_prompted_image_features(self.clip, embedded, prompts)
        )
        return features

    def prepare_training(self) -> None:
        with torch.no_grad():
            self.taught_text = self.teacher.text_features()

    @torch.no_grad()
    def teacher_logits(self, image: Tensor) -> Tensor:
        """Return the teacher's logits (B, C') of the classes that are distilled."""
        return self.teacher.scale * self.teacher.image_features(image) @ self.taught_text.t()

    def loss(self, batch: TrainingBatch) -> Loss:
        teacher = self.teacher_logits(batch.image)
        logits = self.scale * self.image_features(batch.image) @ self.taught_text.t()
        kl = self.weight * distillation_loss(logits, teacher, self.temperature)
        return Loss(kl, logits, {"kl": kl}, label=teacher.argmax(dim=-1))

    def check_checkpoint(self, checkpoint: dict[str, Any], where: str) -> None:
        super().check_checkpoint(checkpoint, where)
        self.check_teacher(checkpoint.get("meta", {}), where)

    def check_teacher(self, meta: dict[str, Any], where: str) -> None:
        """Refuse what was learned with another teacher's backbone.

        Raises:
            UsageError: so.
        """
        if meta.get("teacher_weights", self.teacher_weights) != self.teacher_weights:
            raise UsageError(
                f"{where}: its teacher was another backbone, or had other weights, than "
                "TRAINER.PROMPTKD.TEACHER_NAME names now; name that, or train anew"
            )


@TRAINER_REGISTRY.register()
class PromptKD(PromptTrainer):
    """The unlabelled images are the loader's; the labelled ones serve the teacher."""

    method = "PROMPTKD"
    model_name = "VLPromptLearner"
    shares_steps = False  # the projection's batch normalisation needs the whole batch

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        PromptSRC.extend_cfg(cfg)
        training: dict[str, Any] = {"scope": "training"}
        weights = {"default": 1000.0}
        weights |= dict.fromkeys(("FGVCAircraft", "OxfordFlowers", "DescribableTextures"), 200.0)
        settings = {
            "N_CTX_VISION": count(4, "tokens per layer of the student's image tower"),
            "PROMPT_DEPTH_VISION": count(9, "layers with tokens, the first included"),
            "PREC": precision("fp16"),
            "TEMPERATURE": Setting(1.0, "of both answers", gt=0, le=1000, **training),
            **by_dataset(
                "KD_WEIGHT", "weight of the loss", weights, kind=float, ge=0, le=10**6, **training
            ),
            "TEACHER_NAME": Setting(
                "",
                f"the teacher's backbone; empty: {LARGE} for {' and '.join(ITS_STUDENTS)}, else "
                "the run's own",
                is_file=True,
                scope="inference",  # the weights are compared, wherever they lie
            ),
            "TEACHER_PROMPTS": Setting(
                "",
                "checkpoint of PromptSRC on the teacher's backbone; empty: trained first, as "
                "TRAINER.PROMPTSRC says",
                is_file=True,
                **training,
            ),
            "TEACHER_EPOCHS": Setting(20, "epochs of the teacher", ge=1, le=10**6, **training),
            "TEACHER_BATCH": Setting(8, "images a step of the teacher", ge=1, le=10**6, **training),
            "TEACHER_LR": Setting(0.005, "its learning rate", gt=0, le=1000, **training),
        }
        declare_method(cfg, "PROMPTKD", settings)
        all_images = Setting(
            True, "whether all training images are read, without labels", choices=(True,)
        )
        declare(cfg, "DATASET", {"UNLABELLED": all_images})

    @classmethod
    def teacher_cfg(cls, cfg: Any) -> Any:
        """Return the configuration of the teacher's training."""
        settings = cls.settings_of(cfg)
        teacher = cfg.clone()
        teacher.defrost()
        teacher.MODEL.BACKBONE.NAME = teacher_name(cfg)
        teacher.MODEL.INIT_WEIGHTS = ""
        if "RUN" in teacher:
            teacher.RUN.WEIGHTS = names.weights_digest(teacher.MODEL.BACKBONE.NAME)
        teacher.TRAINER.NAME = "PromptSRC"
        teacher.TRAINER.PROMPTSRC.PREC = settings.PREC
        teacher.OPTIM.MAX_EPOCH = settings.TEACHER_EPOCHS
        teacher.OPTIM.LR = settings.TEACHER_LR
        teacher.DATALOADER.TRAIN_X.BATCH_SIZE = settings.TEACHER_BATCH
        teacher.TEST.FINAL_MODEL = "last_step"
        teacher.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "teacher")
        teacher.RESUME = ""
        teacher.freeze()
        return teacher

    @classmethod
    def training_noise(cls, cfg: Any) -> tuple[list[str], list[int]]:
        return PromptSRC.training_noise(cfg)

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        return PromptSRC.fixed_template(cfg)

    @classmethod
    def check_cfg(cls, cfg: Any) -> None:
        super().check_cfg(cfg)
        if cfg.DATALOADER.TRAIN_X.BATCH_SIZE < 2:
            raise UsageError(
                "DATALOADER.TRAIN_X.BATCH_SIZE 1: PromptKD normalises over a batch, which takes "
                "two images or more"
            )

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> DistilledCLIP:
        require_vit(clip_model, cls.__name__)
        settings, dataset = cls.settings_of(cfg), cfg.DATASET.NAME
        check_depth(
            settings.PROMPT_DEPTH_VISION,
            clip_model.visual.transformer.layers,
            "TRAINER.PROMPTKD.PROMPT_DEPTH_VISION",
        )
        teachers_clip = cls._teachers_clip(cfg, clip_model)
        try:
            teacher = PromptSRC.build(cls.teacher_cfg(cfg), teachers_clip, prompts)
        except NeedsViT:
            raise UsageError(f"{TEACHER_NAME} {teacher_name(cfg)!r}: a teacher is a ViT") from None
        width = teachers_clip.text_projection.shape[1]
        return DistilledCLIP(
            clip_model,
            DistilledPromptLearner(settings, clip_model, teacher.prompt_learner, width),
            prompts,
            teacher=teacher,
            # A registered name has no file of its own here, and says as much.
            teacher_weights=names.weights_digest(teacher_name(cfg)) or teacher_name(cfg),
            temperature=settings.TEMPERATURE,
            weight=setting_for(dataset, settings.KD_WEIGHT, settings.KD_WEIGHT_BY_DATASET),
        )

    @classmethod
    def _teachers_clip(cls, cfg: Any, clip_model: clip.model.CLIP) -> clip.model.CLIP:
        """Return the teacher's backbone, loaded once for all models on one student's."""
        name, own = teacher_name(cfg), cfg.MODEL.BACKBONE.NAME
        if name == own:
            return clip_model
        if clip.preprocessing(name) != clip.preprocessing(own):
            raise UsageError(
                f"{TEACHER_NAME} {name!r}: takes images of another size, mean or deviation than "
                f"the student's backbone {own or 'small'!r}, and both see the same"
            )
        known = _TEACHERS.setdefault(clip_model, {})
        if name not in known:
            device = clip_model.positional_embedding.device
            known[name] = load_clip(cls.teacher_cfg(cfg), cls.precision_of(cfg, device), device)
        return known[name]

    def prepare_training(self) -> None:
        """Train or read the teacher, and have it tell all classes apart."""
        self.train_loader_x = self._unlabelled_loader()
        if not self.start_epoch:  # else the checkpoint has it
            self._take_teacher()
        super().prepare_training()
        dataset: Any = self.dm.dataset
        known = dataset.all_classnames
        logger.info(f"Distilled: {len(known)} classes")
        with own_random_numbers(-1, self.device):  # building draws some
            prompts = ClassPrompts(self.model.prompts.template, known)
            whole = PromptSRC.build(self.teacher_cfg(self.cfg), self.model.teacher.clip, prompts)
        whole.prompt_learner.load_state_dict(self.model.teacher.prompt_learner.state_dict())
        with torch.no_grad():
            self.model.taught_text = whole.to(self.device).text_features()

    def _unlabelled_loader(self) -> Any:
        cfg = self.cfg
        dataset: Any = self.dm.dataset
        if not hasattr(dataset, "unlabelled"):
            raise UsageError(
                f"{cfg.DATASET.NAME}: PromptKD learns from all training images and classes; a data "
                "set gives them as unlabelled and all_classnames (datasets.base.FewShotDataset)"
            )
        if getattr(dataset, "test_is_train", False):
            raise UsageError(
                f"{cfg.DATASET.NAME} has test images only: there are none to learn from"
            )
        return build_data_loader(
            cfg,
            sampler_type=cfg.DATALOADER.TRAIN_X.SAMPLER,
            data_source=dataset.unlabelled,
            batch_size=cfg.DATALOADER.TRAIN_X.BATCH_SIZE,
            tfm=build_transform(cfg, is_train=True),
            is_train=True,
        )

    def _take_teacher(self) -> None:
        """Put the teacher's learned prompts into the model."""
        path, teacher = self.settings.TEACHER_PROMPTS, self.teacher_cfg(self.cfg)
        if path:
            learned = read_learned(teacher, pathlib.Path(path))
            self._check_given(learned["meta"], teacher)
        else:
            path = teacher.OUTPUT_DIR
            logger.info(f"The teacher's training: PromptSRC on {teacher.MODEL.BACKBONE.NAME}")
            with own_random_numbers(self.cfg.SEED, self.device):
                training = TeacherTraining(teacher, self.model.teacher.clip)
                training.train()
            self.train_seconds += training.earlier_seconds
            learned = {"state_dict": training.model.prompt_learner.state_dict()}
            logger.info("The student's training")
        load_learned(self.model.teacher, learned, where=str(path))

    def _check_given(self, meta: dict[str, Any], teacher: Any) -> None:
        """Refuse prompts of another backbone; warn of those that know classes they should not."""
        there, here = meta.get("backbone"), backbone_of(teacher)
        if there not in (None, here):
            raise UsageError(
                f"TRAINER.PROMPTKD.TEACHER_PROMPTS {self.settings.TEACHER_PROMPTS}: trained on "
                f"backbone {there}, not on this teacher's, {here}"
            )
        more = set(trained_classnames(meta) or ()) - set(self.model.prompts.classnames)
        if more:
            logger.warning(
                f"TEACHER_PROMPTS were trained with labels of {len(more)} classes that this run "
                f"has no labels of, {sorted(more)[0]!r} among them"
            )

    def check_origin(self, directory: str, path: str, meta: dict[str, Any]) -> None:
        super().check_origin(directory, path, meta)
        self.model.check_teacher(meta, path)

    def checkpoint_meta(self, epoch: int, model_name: str) -> dict[str, Any]:
        """Say as well which weights the teacher's backbone had."""
        meta = super().checkpoint_meta(epoch, model_name)
        return {**meta, "teacher_weights": self.model.teacher_weights}


_TEACHERS: weakref.WeakKeyDictionary[clip.model.CLIP, dict[str, clip.model.CLIP]] = (
    weakref.WeakKeyDictionary()
)


def teacher_name(cfg: Any) -> str:
    """Return the name of the teacher's backbone."""
    own = cfg.MODEL.BACKBONE.NAME
    return cfg.TRAINER.PROMPTKD.TEACHER_NAME or (LARGE if own in ITS_STUDENTS else own)
