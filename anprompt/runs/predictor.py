"""A trained model as a Python object: loaded once, it names the classes of any images.

    >>> from anprompt.runs.predictor import Predictor  # doctest: +SKIP
    >>> predictor = Predictor.load("output/.../CoOp/vit_b16_ep50_ctxv1/seed1")  # doctest: +SKIP
    >>> predictor.predict("photo.jpg", top=3)  # doctest: +SKIP
    [Prediction(classname='river', probability=0.92), ...]

``export`` writes all that is particular to the model to a folder of its own, safetensors and JSON,
from which ``load`` reads it as well: no data set and no run are needed then.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from yacs.config import CfgNode

from anprompt.runs.config import default_cfg
from anprompt.runs.folder import read_results
from anprompt.runs.trained import (
    TrainedModel,
    build_trained,
    load_backbone,
    quiet,
    read_cfg,
    trained_from,
    training_folder,
    versions,
)
from dassl.data.datasets import build_dataset, reading_of
from dassl.data.transforms import build_transform
from dassl.utils import UsageError, atomic_write, read_image, read_json, write_json
from dassl.utils.images import convert

EXPORT = "model.json"
TENSORS = "model.safetensors"
FORMAT = 1
LEARNED = "learned."
CLASS_FEATURES = "class_features"


@dataclass(frozen=True)
class Prediction:
    classname: str
    probability: float


class Predictor:
    """Answers with the classes of a run, or with others that it is given.

    Attributes:
        classnames: what it answers with.
        rule: the inference rule: the run's own for the classes it was tested on, "class" for others
            where the method has several.
    """

    def __init__(self, trained: TrainedModel, classnames: Sequence[str]):
        self.trained = trained
        self.classnames = list(classnames)
        with quiet():
            self._transform = build_transform(trained.cfg, is_train=False)
        self._reading = reading_of(trained.cfg.DATASET.NAME)

    @property
    def rule(self) -> str:
        return self.trained.model.rule

    @staticmethod
    def load(
        folder: str | Path,
        classnames: Sequence[str] | None = None,
        root: str = "",
        epoch: int | None = None,
    ) -> "Predictor":
        """The model in a run's folder, or in one that ``export`` wrote.

        Args:
            classnames: answer with these instead of the model's own.
            root: folder of the data sets; needed only for a run that was never tested.
            epoch: checkpoint to read from a run (default: the last).

        Raises:
            ValueError: no model there, or one that cannot answer with these classes.
        """
        folder = Path(folder)
        if (folder / EXPORT).is_file():
            return _from_export(folder, classnames)
        return _from_run(folder, classnames, root, epoch)

    def predict(self, image: str | Path | Image.Image, top: int = 5) -> list[Prediction]:
        """The ``top`` likeliest classes of an image, best first.

        Raises:
            UsageError: the file does not decode.
        """
        return self.predict_many([image], top)[0]

    def predict_many(
        self, images: Iterable[str | Path | Image.Image], top: int = 5
    ) -> list[list[Prediction]]:
        """``predict`` for a batch of images, run together.

        Raises:
            UsageError: a file does not decode.
        """
        return self.classify([self.prepare(image) for image in images], top)

    def prepare(self, image: str | Path | Image.Image) -> torch.Tensor:
        """The model's input (3, H, W) for an image, read as the run's data set is.

        Raises:
            UsageError: the file does not decode.
        """
        if isinstance(image, Image.Image):
            return self._transform(convert(image, self._reading))
        return self._transform(read_image(image, self._reading))

    @torch.no_grad()
    def classify(self, inputs: Sequence[torch.Tensor], top: int = 5) -> list[list[Prediction]]:
        """``predict`` for a batch of prepared images."""
        if not inputs:
            return []
        inputs = torch.stack(list(inputs))
        logits = self.trained.model(inputs.to(self.trained.device)).float()
        top = max(1, min(top, len(self.classnames)))
        values, labels = logits.softmax(dim=-1).topk(top, dim=-1)
        return [
            [Prediction(self.classnames[i], float(p)) for p, i in zip(ps, labels_, strict=True)]
            for ps, labels_ in zip(values.tolist(), labels.tolist(), strict=True)
        ]

    @torch.no_grad()
    def export(self, folder: str | Path) -> None:
        """Write the model to ``folder``: ``model.json`` and ``model.safetensors``.

        The safetensors file holds the learned tensors as ``learned.<name>`` and, unless every image
        has class features of its own, the normalised ``class_features`` (C, E). The frozen
        backbone is named in the JSON file, not copied.
        """
        model, cfg = self.trained.model, self.trained.cfg
        tensors = {
            LEARNED + name: tensor.contiguous().cpu()
            for name, tensor in model.prompt_learner.state_dict().items()
        }
        state = model.class_state()
        if isinstance(state, torch.Tensor):
            tensors[CLASS_FEATURES] = state.contiguous().cpu()
        description = {
            "format": FORMAT,
            "trainer": cfg.TRAINER.NAME,
            "backbone": cfg.MODEL.BACKBONE.NAME,
            "classnames": self.classnames,
            "rule": self.rule,
            "logit_scale": float(model.scale),
            "input": {
                "size": list(cfg.INPUT.SIZE),
                "interpolation": cfg.INPUT.INTERPOLATION,
                "mean": list(cfg.INPUT.PIXEL_MEAN),
                "std": list(cfg.INPUT.PIXEL_STD),
            },
            "trained_on": _training_of(self.trained.checkpoint),
            "config": _plain(cfg),
            "versions": versions(),
        }
        # The description last: a folder without it is no export.
        with atomic_write(str(Path(folder) / TENSORS), "wb") as file:
            file.write(save_safetensors(tensors))
        write_json(description, str(Path(folder) / EXPORT))


def _from_run(
    folder: Path, classnames: Sequence[str] | None, root: str, epoch: int | None
) -> Predictor:
    cfg = read_cfg(folder, root)
    own = _classnames_of(folder, cfg)
    chosen = list(classnames) if classnames is not None else own
    trained = build_trained(cfg, _checked(chosen), load_backbone(cfg), epoch)
    _answer_for(trained, is_own=sorted(chosen) == sorted(own))
    return Predictor(trained, chosen)


def _from_export(folder: Path, classnames: Sequence[str] | None) -> Predictor:
    description = read_json(str(folder / EXPORT))
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UsageError(f"{folder / EXPORT}: not an export of this version")
    cfg = default_cfg()
    cfg.merge_from_other_cfg(CfgNode(description["config"]))
    own = description["classnames"]
    chosen = list(classnames) if classnames is not None else own
    path = folder / TENSORS
    try:
        tensors = load_safetensors(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; export the model again") from None
    except Exception as error:  # safetensors' own
        raise UsageError(f"{path}: not the tensors of this model ({error})") from None
    learned = {
        name.removeprefix(LEARNED): tensor
        for name, tensor in tensors.items()
        if name.startswith(LEARNED)
    }
    checkpoint = {"state_dict": learned, "meta": description["trained_on"]} if learned else {}
    trained = trained_from(cfg, _checked(chosen), load_backbone(cfg), checkpoint, path)
    trained.model.rule = description["rule"]
    _answer_for(trained, is_own=sorted(chosen) == sorted(own))
    return Predictor(trained, chosen)


def _training_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what an export keeps of a checkpoint's account of its training."""
    meta = checkpoint.get("meta", {})
    return {key: meta[key] for key in ("dataset", "classnames") if key in meta}


def _answer_for(trained: TrainedModel, is_own: bool) -> None:
    """For classes that the run was not tested on, class logits alone: nobody trained on them."""
    if not is_own:
        trained.model.rule = "class"


def _classnames_of(folder: Path, cfg: CfgNode) -> list[str]:
    """The classes that a run was tested on: from its results, else from its data set."""
    results = read_results(folder) or read_results(training_folder(cfg)) or {}
    if results.get("classnames") and (folder / "results.json").is_file():
        return results["classnames"]
    with quiet():
        return list(build_dataset(cfg).classnames)


def _checked(classnames: Sequence[str]) -> list[str]:
    names = [str(name).strip() for name in classnames]
    if len(names) < 2 or not all(names):
        raise UsageError(f"{len(names)} class names; classification takes two at least, none empty")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(f"class {repeated!r} is named twice")
    return names


def _plain(value: Any) -> Any:
    """A configuration as nested dictionaries and lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
