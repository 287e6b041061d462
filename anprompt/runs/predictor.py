"""A trained model as a Python object: loaded once, it names the classes of any images.

    >>> from anprompt.runs.predictor import Predictor  # doctest: +SKIP
    >>> predictor = Predictor.load("output/.../CoOp/vit_b16_ep50_ctxv1/seed1")  # doctest: +SKIP
    >>> predictor.predict("photo.jpg", top=3)  # doctest: +SKIP
    [Prediction(classname='river', probability=0.92), ...]
    >>> predictor.set_classes(["lake", "river", "sea"])  # doctest: +SKIP
    >>> predictor.probabilities(["photo.jpg", "other.jpg"])  # doctest: +SKIP
    tensor([[0.05, 0.93, 0.02], ...])

``export`` writes the model to a folder of its own, from which ``load`` reads it as well: no data
set and no run are needed then.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from yacs.config import CfgNode

from anprompt.runs.calibration import Scaling, scaling_of
from anprompt.runs.export import is_export, read_export, write_export
from anprompt.runs.identity import refuse_changed_data
from anprompt.runs.recorded import read_results
from anprompt.runs.trained import (
    TrainedModel,
    build_trained,
    check_dataset,
    checkpoint_path,
    load_backbone,
    quiet,
    read_cfg,
    trained_from,
    trainer_class,
)
from common.errors import UsageError, one_line
from common.images import convert, read_image
from dassl.data.datasets import build_dataset
from datasets import identity
from datasets.classnames import same_names
from datasets.splits import name_problem
from trainers.base import read_learned, trained_classnames

log = logging.getLogger(__name__)

AnImage = str | Path | Image.Image | Tensor  # a tensor is prepared already, (3, H, W)


@dataclass(frozen=True)
class Prediction:
    classname: str
    probability: float


class Predictor:
    """Answers with the classes of a run, or with others that it is given.

    Args:
        trained: the model, for ``classnames``.
        own: the classes that the run was tested on.
        rule: the inference rule for those.

    Attributes:
        classnames: what it answers with.
        scaling: of logits, before they become probabilities; see ``calibrate``.
    """

    def __init__(
        self, trained: TrainedModel, classnames: Sequence[str], own: Sequence[str], rule: str
    ):
        self._own = list(own)
        self._rule = rule
        self._calibration: tuple[str, str | Path] | None = None
        self._take(trained, classnames)
        with quiet():
            self._transform: Any = trained.method.image_transform(trained.cfg)

    @staticmethod
    def load(
        folder: str | Path,
        classnames: Sequence[str] | None = None,
        root: str = "",
        epoch: int | None = None,
        portable: bool = False,
    ) -> "Predictor":
        """Load the model of a run's folder, or of one that ``export`` wrote.

        Args:
            classnames: answer with these instead of the model's own.
            root: folder of the data sets; needed only for a run that was never tested.
            epoch: checkpoint to read from a run (default: as train.py --eval-only chooses).
            portable: on the CPU in fp32, whatever the run's precision.

        Raises:
            UsageError: no model there, or one that cannot answer with these classes.
        """
        folder = Path(folder)
        if is_export(folder):
            if epoch is not None:
                raise UsageError(
                    f"--load-epoch {epoch}: {folder} is an export, of one epoch; leave it out, or "
                    "name the run"
                )
            export = read_export(folder)
            own, rule = export.classnames, export.rule
            if not export.reading:
                check_dataset(export.cfg, folder)
            chosen = _chosen(classnames, own)
            cfg = _portable(export.cfg) if portable else export.cfg
            trained = trained_from(
                cfg, chosen, load_backbone(cfg), export.checkpoint, export.path, export.reading
            )
            if not export.has_trained_rows and trained.model.prompt_learner.per_class:
                raise UsageError(
                    f"{folder}: an earlier version wrote it for other classes than those of its "
                    "training, and it would answer wrongly; export the run again"
                )
            if rule not in trained.model.rules:
                raise UsageError(f"{folder}: {export.cfg.TRAINER.NAME} has no rule {rule!r}")
        else:
            cfg = read_cfg(folder, root)
            if trainer_class(cfg).task != "classification":
                raise UsageError(
                    f"{folder}: a model of anomaly detection names no classes; python -m anprompt "
                    "predict answers with it"
                )
            check_dataset(cfg, folder)
            own = _classnames_of(folder, cfg, epoch)
            chosen = _chosen(classnames, own)
            cfg = _portable(cfg) if portable else cfg
            trained = build_trained(cfg, chosen, load_backbone(cfg), epoch, own)
            rule = trained.model.rule
        return Predictor(trained, chosen, own, rule)

    @property
    def rule(self) -> str:
        """The inference rule: the run's own for the classes it was tested on; for others, where
        the method has several, "class" unless it was trained on all of them.
        """
        return self.trained.model.rule

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Answer with other classes from now on; learned tensors are not read again.

        Raises:
            UsageError: the model cannot answer with these.
        """
        chosen = _chosen(classnames, self._own)
        old = self.trained
        new = trained_from(old.cfg, chosen, old.model.clip, old.checkpoint, old.path, old.reading)
        self._take(new, chosen)

    def _take(self, trained: TrainedModel, classnames: Sequence[str]) -> None:
        if sorted(classnames) == sorted(self._own):
            trained.model.rule = self._rule
        else:
            learned_for = trained_classnames(trained.checkpoint.get("meta", {})) or []
            is_known = set(trained.model.prompts.classnames) <= set(learned_for)
            if "class" in trained.model.rules and not is_known:
                trained.model.rule = "class"
            if not trained.model.knows_classes:
                log.warning(
                    f"{trained.cfg.TRAINER.NAME} was not trained on these classes, and what it "
                    "learned for each class has no part in the answers (docs/FEATURES.md)"
                )
        self.trained = trained
        self.classnames = list(classnames)
        self.scaling = scaling_of(*self._calibration, trained) if self._calibration else Scaling()

    def calibrate(self, kind: str, folder: str | Path) -> None:
        """Scale logits from now on so that confidences fit better; answers stay as they are.

        Args:
            kind: "temperature", "dac" (for classes that were not trained on) or "both".
            folder: of the run, which ``anprompt calibrate`` has written the temperature to.

        Raises:
            UsageError: the run was not calibrated, or not for logits of this inference rule; or
                DAC does not go with it.
        """
        self.scaling = scaling_of(kind, folder, self.trained)
        self._calibration = kind, folder

    # Answers

    def predict(self, image: AnImage, top: int = 5) -> list[Prediction]:
        """Return the ``top`` likeliest classes of an image, best first.

        Raises:
            UsageError: the file does not decode.
        """
        return self.predict_many([image], top)[0]

    def predict_many(self, images: Iterable[AnImage], top: int = 5) -> list[list[Prediction]]:
        """Return ``predict`` for a batch of images, which are run together.

        Raises:
            UsageError: a file does not decode.
        """
        top = max(1, min(top, len(self.classnames)))
        values, labels = self.probabilities(images).topk(top, dim=-1)
        return [
            [Prediction(self.classnames[i], float(p)) for p, i in zip(ps, labels_, strict=True)]
            for ps, labels_ in zip(values.tolist(), labels.tolist(), strict=True)
        ]

    def answers(
        self, images: Sequence[AnImage], top: int = 5, batch: int = 64, workers: int = 1
    ) -> Iterator[tuple[AnImage, list[Prediction] | None, str]]:
        """Yield (image, predictions, "") in order, or (image, None, reason) for one that cannot be
        read.

        Args:
            batch: images that are run together.
            workers: threads that read images meanwhile.
        """

        def prepare(image: AnImage) -> tuple[Tensor | None, str]:
            try:
                return self.prepare(image), ""
            except (UsageError, OSError) as error:
                return None, one_line(error)

        def answer(group: list[tuple[AnImage, Future]]) -> Iterator[tuple[AnImage, Any, str]]:
            read = [(image, *future.result()) for image, future in group]
            inputs = [tensor for _, tensor, _ in read if tensor is not None]
            found = iter(self.predict_many(inputs, top))
            for image, tensor, reason in read:
                yield image, None if tensor is None else next(found), reason

        ahead: deque[list[tuple[AnImage, Future]]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(images), batch):
                some = images[start : start + batch]
                ahead.append([(image, pool.submit(prepare, image)) for image in some])
                if len(ahead) > 1:
                    yield from answer(ahead.popleft())
            while ahead:
                yield from answer(ahead.popleft())

    def logits(self, images: Iterable[AnImage]) -> Tensor:
        """Return logits (N, C) of N images that are run together, fp32, on the CPU.

        Raises:
            UsageError: a file does not decode, or the model's answer is not finite.
        """
        return self.logits_by_rule(images)[self.rule]

    @torch.no_grad()
    def logits_by_rule(self, images: Iterable[AnImage]) -> dict[str, Tensor]:
        """Return ``logits`` under each inference rule of the method.

        Raises:
            UsageError: a file does not decode, or the model's answer is not finite.
        """
        inputs, model = self._inputs(images), self.trained.model
        if not len(inputs):
            return {rule: torch.zeros(0, len(self.classnames)) for rule in model.rules}
        found = model.inference_rules(inputs) or {self.rule: model(inputs)}
        found = {rule: logits.float().cpu() for rule, logits in found.items()}
        if not all(torch.isfinite(logits).all() for logits in found.values()):
            name = self.trained.cfg.TRAINER.NAME
            raise UsageError(f"{name}: this model gives values that are not finite; train anew")
        return found

    def probabilities(self, images: Iterable[AnImage]) -> Tensor:
        """Return the probability of each class (N, C), summing to 1 over classes."""
        return self.scaling(self.logits(images)).softmax(dim=-1)

    @torch.no_grad()
    def image_features(self, images: Iterable[AnImage]) -> Tensor:
        """Return normalised features of images (N, E), fp32, on the CPU."""
        return self.trained.model.image_features(self._inputs(images)).float().cpu()

    @torch.no_grad()
    def text_features(self) -> Tensor:
        """Return normalised features of the classes (C, E), fp32, on the CPU.

        Raises:
            UsageError: the method has other class features for every image.
        """
        state = self.trained.model.class_state()
        if not isinstance(state, Tensor):
            name = self.trained.cfg.TRAINER.NAME
            raise UsageError(f"{name} has class features that depend on the image; use logits()")
        return state.float().cpu()

    def prepare(self, image: AnImage) -> Tensor:
        """Return the model's input (3, H, W) for an image, read as the run's data set is.

        Raises:
            UsageError: the file does not decode.
        """
        if isinstance(image, Tensor):
            return image
        if isinstance(image, Image.Image):
            return self._transform(convert(image, self.trained.reading))
        return self._transform(read_image(image, self.trained.reading))

    def _inputs(self, images: Iterable[AnImage]) -> Tensor:
        prepared = [self.prepare(image) for image in images]
        return torch.stack(prepared).to(self.trained.device) if prepared else torch.zeros(0)

    def export(self, folder: str | Path) -> None:
        """Write the model to ``folder``; see ``anprompt.runs.export``."""
        write_export(self.trained, self.classnames, folder)


def _portable(cfg: CfgNode) -> CfgNode:
    """Return the settings with precision fp32 and no GPU."""
    cfg = cfg.clone()
    cfg.USE_CUDA = False
    trainer_class(cfg).settings_of(cfg).PREC = "fp32"
    return cfg


def _classnames_of(folder: Path, cfg: CfgNode, epoch: int | None) -> list[str]:
    """Return the classes that a run was tested on: from its results, else those that it was
    trained on by its checkpoint, else those of its data set.

    Raises:
        UsageError: there are no results, and the data set has changed since the run.
    """
    results = read_results(folder) or {}
    if results.get("classnames"):
        return results["classnames"]
    path = None if cfg.RUN.MODEL_DIR else checkpoint_path(cfg, epoch)
    known = {} if path is None else read_learned(cfg, path).get("meta", {})
    if known.get("classnames"):
        return list(known["classnames"])
    now = {"train": identity(cfg)["train"]}
    refuse_changed_data(folder, now, "it was not tested, so its classes are those of its images")
    with quiet():
        return list(build_dataset(cfg).classnames)


def _chosen(classnames: Sequence[str] | None, own: Sequence[str]) -> list[str]:
    """Return the classes to answer with; a run's own are taken as they are.

    Raises:
        UsageError: fewer than two names, one that no prompt can say, or two that are one there.
    """
    if classnames is None or list(classnames) == list(own):
        return list(own)
    names = [str(name).strip() for name in classnames]
    if len(names) < 2 or not all(names):
        raise UsageError(f"{len(names)} class names; classification takes two at least, none empty")
    for name in names:
        if problem := name_problem(name):
            raise UsageError(problem)
    for first, second, *_ in same_names(names):
        other = "" if first == second else f" ({second!r} is the same in prompts)"
        raise UsageError(f"class {first!r} is named twice{other}")
    return names
