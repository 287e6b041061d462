"""What robustness.json files hold."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anprompt.protocols.layout import data_name, read_path
from anprompt.results.method import Method
from anprompt.results.noise.cells import (
    SEEN,
    Choice,
    Measured,
    by_group,
    everything,
    is_attack,
    kinds_of,
    mean_over_cells,
    measured,
    unseen_in_training,
)
from anprompt.results.run import read_training
from anprompt.results.value import Value, cell_patterns
from anprompt.runs.checkpoints import epoch_to_load
from anprompt.runs.fingerprint import earlier_fingerprint, fingerprint
from anprompt.runs.recorded import known_shots, recorded_config, training_of
from common.checkpoints import checkpoint_name
from common.errors import UsageError
from common.reading import read_json
from common.schema import COUNT, PERCENT, WHOLE, Each, Number, mismatch
from common.text import plain
from common.walk import folders_with
from noise.cells import Cell
from noise.masking import UnderAttacks

FILE_NAME = "robustness.json"
FORMAT = 2
OWN_PHRASINGS = "own"  # in place of a digest of the file that phrasings are drawn from
# Measures of a cell; those after the first three are missing in files of earlier versions.
MEASURES = ("accuracy", "consistency", "ece", "adaptive_ece", "max_ce", "brier")

_CLEAN = {
    **dict.fromkeys(("accuracy", "ece", "adaptive_ece?", "max_ce?"), PERCENT),
    "brier?": Number(0, 2 + 1e-6),
}
_VIEW = {
    "kind": str,
    "severity": COUNT,
    "picture": str,
    "answer": str,
    "probability": Number(0, 1 + 1e-6),
}
_PART = {
    "headline_rule": str,
    "classnames": [str],
    "images": {"used": Number(1, 1e9, whole=True), "sha256": str},
    "clean": Each(_CLEAN),
    "cells": Each(Each({**_CLEAN, "consistency": PERCENT})),
    "examples?": [{"image": str, "class": str, "views": [_VIEW]}],
    "text_examples?": [{"kind": str, "prompts": [str]}],
    "template?": str,
    "precision?": str,
    "data?": Each(str),
    "meaning_kept?": Each(PERCENT),
    "attacked?": {"used": Number(1, 1e9, whole=True), "sha256": str, "clean?": Each(_CLEAN)},
    "imagenet_c?": {"size": COUNT, "as_jpeg": bool},
    "released?": Each(str),
}
_SEEN = {"text_kinds": [str], "image_kinds": [str], "seeds": [WHOLE]}
_FILE = {
    "trainer": str,
    "config": str,
    "backbone": str,
    "dataset": str,
    "dataset_title?": str,
    "source?": str,
    "trained_on?": str,
    "shots": WHOLE,
    "seed": WHOLE,
    "checkpoint?": str,
    "fingerprint?": str,
    "noise_in_training": _SEEN,
    "parts": Each(_PART),
}


@dataclass(frozen=True)
class Evaluation:
    """One model on one subset of the classes, as its robustness.json has it."""

    path: Path
    header: dict[str, Any]  # of the model: trainer, backbone, seed, ...
    subset: str
    part: dict[str, Any]

    @staticmethod
    def in_memory(name: str, part: dict[str, Any]) -> "Evaluation":
        """Return what was measured without a run; ``name`` is the model's."""
        header = {
            "trainer": name,
            "config": "",
            "backbone": "",
            "dataset": "",
            "shots": 0,
            "seed": 0,
            "noise_in_training": {name: [] for name in SEEN},
        }
        return Evaluation(Path(name), header, "all", part)

    @property
    def dataset(self) -> str:
        """Return what the data set is called: a user's own images have a title."""
        return data_name(self.header["dataset"], self.header.get("dataset_title"))

    @property
    def trained_elsewhere(self) -> str:
        """Return the data set trained on where it is another than the one tested; else ""."""
        source = self.header.get("source", "") if self.header.get("checkpoint") else ""
        return "" if source == self.dataset else source

    @property
    def data(self) -> dict[str, str]:
        """Return digests of the test images, as `datasets.identity` has them; {} in old files."""
        return self.part.get("data") or {}

    @property
    def headline_rule(self) -> str:
        """Return the inference rule that the method's protocol prescribes."""
        return self.part["headline_rule"]

    @property
    def attacked(self) -> dict[str, Any]:
        """Return which images attacks are made on: how many, and a digest."""
        images = self.part.get("attacked") or self.part["images"]
        return {key: images[key] for key in ("used", "sha256")}

    @property
    def imagenet_c(self) -> str:
        """Return how ImageNet-C was made in memory, in words; "" where that is not known."""
        made = self.part.get("imagenet_c")
        if not made:
            return ""
        saved = "saved as JPEG 85 and read again" if made["as_jpeg"] else "not saved as JPEG"
        return f"with the parameters for {made['size']} pixels, {saved}"

    @property
    def checkpoint(self) -> str:
        """Return the file that was measured; "" of a model that learns nothing."""
        return Path(self.header.get("checkpoint") or "").name

    def other_checkpoint(self, epochs: int = 0) -> str:
        """Return the file that was measured where a test reads another; else "".

        Args:
            epochs: of the training, where its folder does not say.
        """
        if not self.checkpoint:
            return ""
        model = (self.path.parent / self.header["checkpoint"]).parent  # that of the training
        try:
            epoch = epoch_to_load(str(model.parent), model.name, epochs)
        except UsageError:  # no checkpoints there any more: nothing to compare with
            return ""
        return "" if self.checkpoint == checkpoint_name(epoch) else self.checkpoint

    @property
    def starts(self) -> tuple[int, ...]:
        """Return the noise seeds that attacks on images start from; one, but in earlier files."""
        cells = (cell for cell in self.cells() if cell.group == "adversarial")
        return tuple(sorted({cell.seed or 0 for cell in cells}))

    @property
    def has_attacks(self) -> bool:
        """Return whether any attack was made."""
        return bool(self.starts)

    @property
    def source(self) -> str:
        """Return where its entries stand: "FILE#parts/SUBSET"."""
        return f"{self.path.as_posix()}#parts/{self.subset}"

    @property
    def method(self) -> Method:
        """Return whose it is. What was trained on matters only where something is learned."""
        header = self.header
        learns = bool(header.get("checkpoint"))
        subset = header.get("trained_on") if learns else ""
        trained_on = [f"{subset} classes"] if subset else []
        trained_on += [self.trained_elsewhere] if self.trained_elsewhere else []
        return Method(
            trainer=header["trainer"],
            config=header["config"],
            backbone=header["backbone"],
            shots=known_shots(header["shots"]) if learns else None,
            note=f"trained on {' of '.join(trained_on)}" if trained_on else "",
            learns=learns,
        )

    def clean(self, measure: str = "accuracy", attacked: bool = False) -> Value | None:
        """Return a figure without noise; None where it was not measured.

        Args:
            attacked: of the images that attacks were made on, where those are not all.
        """
        place, figures = "clean", self.part["clean"]
        if attacked and (part := self.part.get("attacked")):
            place, figures = "attacked/clean", part.get("clean") or {}
        figure = figures.get(self.headline_rule, {}).get(measure)
        if figure is None:
            return None
        return Value(figure, f"{self.source}/{place}/{self.headline_rule}/{measure}")

    def under(self, cells: Sequence[Measured], measure: str = "accuracy") -> Value | None:
        """Return the mean over cells; None where some lack the measure."""
        if any(measure not in cell.figures for cell in cells):
            return None
        end = f"/{self.headline_rule}/{measure}"
        patterns = cell_patterns(cell.key for cell in cells)
        source = ["noisy", *(f"{self.source}/cells/{pattern}{end}" for pattern in patterns)]
        return Value(mean_over_cells(cells, measure), source)

    def cells(self) -> list[Measured]:
        """Return all cells, under the headline rule."""
        return measured(self.part, self.headline_rule)

    def under_attacks(self) -> UnderAttacks:
        """Return the accuracy under every attack on images.

        Files of earlier versions have several starts: the mean over them.
        """
        every: dict[tuple[str, int], list[float]] = {}
        for cell in self.cells():
            if cell.group == "adversarial":
                every.setdefault((cell.kind, cell.severity), []).append(cell.figures["accuracy"])
        accuracy = {key: statistics.fmean(figures) for key, figures in every.items()}
        return UnderAttacks(accuracy, self.attacked["used"])


def read_content(path: Path) -> dict[str, Any] | None:
    """Read a robustness.json; None where there is none.

    Raises:
        UsageError: the file cannot be read, or is not what it should be.
    """
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except UsageError as error:
        raise UsageError(f"{error}; remove it, or evaluate again with --redo") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"{path}: not written by this version; evaluate again with --redo")
    problem = mismatch(content, _FILE) or next(
        filter(None, (_problem(name, part) for name, part in content["parts"].items())), ""
    )
    if problem:
        raise UsageError(
            f"{path}: not the results of an evaluation ({problem}); remove it, or evaluate again "
            "with --redo"
        )
    return content


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Return what robustness.json in a run's folder holds; nothing where there is none.

    Raises:
        UsageError: as `read_content`, or the model is another one now.
    """
    path = folder / FILE_NAME
    content = read_content(path)
    if content is None:
        return []
    _check_model(folder, content)
    header = {
        key: plain(value) if isinstance(value, str) else value
        for key, value in content.items()
        if key != "parts"
    }
    if "source" not in header:
        training = training_of(folder, recorded_config(folder) or {})
        header |= of_training(folder, training, header)
    return [
        Evaluation(path, header, name, part)
        for name, part in content["parts"].items()
        if part["clean"]
    ]


def of_training(folder: Path, training: Path | None, header: Mapping[str, Any]) -> dict[str, Any]:
    """Return what robustness.json says of the training that a model comes from.

    That is the data set trained on ("": the one tested, as far as is known) and the shots. Files of
    earlier versions have the shots of the test instead, and no data set.

    Args:
        folder: of the run that was measured.
        training: that of the training; None where the run trained the model itself.
        header: what robustness.json says of the run.
    """
    if training is None:
        return {"source": ""}
    behind = read_training(training, header["shots"])
    source = behind.dataset or read_path(folder, header["trainer"]).source
    return {"source": source, "shots": behind.shots}


def _check_model(folder: Path, content: dict[str, Any]) -> None:
    """Refuse figures of a model that was trained anew, or got other settings, since."""
    measured_on = content.get("fingerprint")
    named = content.get("checkpoint")
    checkpoint = folder / named if named else None
    if not measured_on or (checkpoint is not None and not checkpoint.is_file()):
        return
    names = (name(folder, checkpoint) for name in (fingerprint, earlier_fingerprint))
    if measured_on not in names:
        raise UsageError(
            f"{folder / FILE_NAME} has figures of another model than {checkpoint or folder} is "
            f"now; evaluate again (anprompt robustness --model-dir {folder}), or remove it"
        )


def _problem(name: str, part: dict[str, Any]) -> str:
    """Return what is wrong with the entries of a part, taken together."""
    rules = part["clean"].keys()
    if rules and part["headline_rule"] not in rules:
        return f"parts/{name}/clean lacks rule {part['headline_rule']!r}"
    for key, figures in part["cells"].items():
        try:
            Cell.from_key(key)
        except UsageError as error:
            return f"parts/{name}/cells: {error}"
        if not rules <= figures.keys():
            return f"parts/{name}/cells/{key} lacks a rule"
    return ""


def read_below(roots: Iterable[Path]) -> list[Evaluation]:
    """Return all evaluations below some folders.

    Raises:
        UsageError: as `read_evaluations`.
    """
    folders = sorted({folder for root in roots for folder in folders_with(root, [FILE_NAME])})
    return [found for folder in folders for found in read_evaluations(folder)]


def summary_for_people(part: dict[str, Any], seen: dict[str, list]) -> dict[str, Any]:
    """Return robustness.json's summary: by the headline rule, of unseen and of all kinds."""
    rule = part["headline_rule"]
    attacked = (part.get("attacked") or {}).get("clean") or part["clean"]
    cells = measured(part, rule)

    def figures(choose: Choice) -> dict[str, Any]:
        found = {}
        for group, own in by_group(cells, choose).items():
            accuracy = mean_over_cells(own, "accuracy")
            clean = (attacked if is_attack(group) else part["clean"])[rule]["accuracy"]
            found[group] = {
                "mean_corruption_accuracy": accuracy,
                "drop": clean - accuracy,
                "consistency": mean_over_cells(own, "consistency"),
                "ece": mean_over_cells(own, "ece"),
                "kinds": kinds_of(own),
            }
        return found

    return {
        "rule": rule,
        "clean": part["clean"][rule],
        "unseen_in_training": figures(unseen_in_training(seen)),
        "all": figures(everything),
    }
