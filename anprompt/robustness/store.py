"""``RUN/robustness.json``: every cell that was measured, so that a stopped evaluation goes on."""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from anprompt.results.comparable import unlike_data
from anprompt.results.noise.files import (
    FILE_NAME,
    FORMAT,
    OWN_PHRASINGS,
    read_content,
    summary_for_people,
)
from anprompt.robustness.answers import Figures
from common.errors import UsageError
from common.files import atomic_write, write_json
from common.reading import read_json
from common.schema import Each, Number, mismatch
from noise.cells import Cell, in_order

logger = logging.getLogger(__name__)

PICTURES = "robustness_examples"
OUTCOMES_NAME = "robustness_attacks.json"
_OUTCOMES = {
    "fingerprint": str,
    "parts": Each(Each(Each(Each([Number(-1, 1e9)])))),  # part, cell, image, rule
    "of?": Each({"data": Each(str), "words": str}),  # part
}


class Results:
    """The results of one model on one set of images: a part of robustness.json.

    Attributes:
        content: as it is written.
        is_changed: since it was last saved.
    """

    def __init__(self, content: dict[str, Any], save: Callable[[], None] = lambda: None):
        self.content = content
        self.is_changed = False
        self._save = save

    @staticmethod
    def begun(header: dict[str, Any]) -> dict[str, Any]:
        """Return the content before anything is measured."""
        return {
            **header,
            "descriptions": None,
            "clean": {},
            "cells": {},
            "examples": [],
            "text_examples": [],
        }

    def missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return those of ``cells`` that are not measured yet."""
        return [cell for cell in cells if cell.key not in self.content["cells"]]

    def add_clean(self, figures: Figures) -> None:
        """Take in figures without noise, where there are none yet."""
        if not self.content["clean"]:
            self.content["clean"] = figures
            self.is_changed = True

    def add(self, measured: dict[Cell, Figures]) -> None:
        """Take in cells; `save` writes them."""
        if not measured:
            return
        cells = self.content["cells"]
        cells.update({cell.key: figures for cell, figures in measured.items()})
        ordered = in_order([Cell.from_key(key) for key in cells])
        self.content["cells"] = {cell.key: cells[cell.key] for cell in ordered}
        self.is_changed = True

    def set(self, key: str, value: Any) -> None:
        """Set another entry."""
        self.is_changed |= self.content.get(key) != value
        self.content[key] = value

    def save(self) -> None:
        """Write what has changed."""
        if self.is_changed:
            self._save()
            self.is_changed = False


class Store:
    """The results of one model, by subset of the classes; written as a whole when they change.

    A model that was trained anew starts over, and so does every subset in ``redo``.
    Other images or pools than the stored ones are refused: mixing them would compare unlike things,
    and dropping the old ones could lose hours.

    Args:
        folder: the run's.
        header: what describes the model.
        redo: subsets to measure anew, also where the file cannot be read.
        earlier: the fingerprint that an earlier version gave this very model.

    Raises:
        UsageError: the file is damaged or of another version, or has figures of another checkpoint
            that is still there, on subsets that are not in ``redo``.
    """

    def __init__(
        self,
        folder: Path,
        header: dict[str, Any],
        redo: Collection[str] = (),
        earlier: str = "",
    ):
        self.path = folder / FILE_NAME
        self._redo = redo
        self.content: dict[str, Any] = {"format": FORMAT, **header, "parts": {}}
        self.outcomes = Outcomes(folder / OUTCOMES_NAME, header["fingerprint"])
        try:
            found = read_content(self.path)
        except UsageError:
            if not redo:
                raise
            found = None
        if found is None:
            return
        if found.get("fingerprint") in (header["fingerprint"], earlier):
            self.content["parts"] = found["parts"]
            return
        before, now = found.get("checkpoint") or "", header.get("checkpoint") or ""
        measured = [name for name, part in found["parts"].items() if part["clean"]]
        if before and before != now and (folder / before).is_file():
            if set(measured) - set(redo):
                raise UsageError(
                    f"{self.path} has figures of {before}, not of {now}: give --load-epoch as "
                    f"before, or --redo --classes {','.join(measured)} to begin anew"
                )
            why = f"are of {before}, not of {now}"
        else:
            why = "are of another model than the run has now"
        if measured:
            told = ", ".join(measured)
            logger.info(f"{self.path}: figures on its {told} classes {why}; starting over")

    def subset(
        self,
        name: str,
        header: dict[str, Any],
        optional: dict[str, Any],
        data: Mapping[str, str] = MappingProxyType({}),
    ) -> Results:
        """Return the results on one subset, begun if there are none.

        Args:
            header: what all its cells depend on.
            optional: what some cells depend on, e.g. the file that kind ``description`` draws from;
                None where it is not used now.
            data: digests of the test images' lists and files, see `datasets.identity`. Files of
                earlier versions have none and go on without.

        Raises:
            UsageError: there are results on other images, classes or pools.
        """
        if name in self._redo:
            self.content["parts"].pop(name, None)
            self.outcomes.forget(name)
        is_new = name not in self.content["parts"]
        if not is_new:
            _say_pools(self.content["parts"][name])
        part = self.content["parts"].setdefault(name, Results.begun({**header, "data": dict(data)}))
        what, before, now = unlike_data(part.get("data") or {}, data)
        if what:
            raise UsageError(
                f"{self.path}: its {name} classes were evaluated on other images: {what} was "
                f"{before}, is {now}. Put those back, or pass --redo to begin anew"
            )
        used = {key: value for key, value in optional.items() if value is not None}
        known = {key: part[key] for key in used if part.get(key) is not None}
        for key, value in {**header, **known}.items():
            now = used.get(key, value)
            if _contradict(part.get(key), now):
                raise UsageError(
                    f"{self.path}: its {name} classes were evaluated with other {key} "
                    f"({_brief(part.get(key))}; now {_brief(now)}). Give the same "
                    f"{FLAGS.get(key, '--images')}, or pass --redo to begin anew"
                )
        for key, value in used.items():
            part[key] = {**known.get(key, {}), **value} if isinstance(value, dict) else value
        self.outcomes.begin(name, data, [header["classnames"], header["template"]], is_new)
        return Results(part, self.save)

    def save(self) -> None:
        """Write the file, with a summary of its cells for whoever opens it."""
        self.outcomes.save_forgotten()
        for part in self.content["parts"].values():
            if part["clean"]:
                part["summary"] = summary_for_people(part, self.content["noise_in_training"])
        write_json(self.content, str(self.path))

    def save_picture(self, name: str, picture: Image.Image) -> str:
        """Keep a picture beside the results; return its path relative to the run's folder."""
        relative = f"{PICTURES}/{name}.jpg"
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90)
        with atomic_write(str(self.path.parent / relative), "wb") as file:
            file.write(buffer.getvalue())
        return relative


def _say_pools(part: dict[str, Any]) -> None:
    """Have a part name the pools that its cells are drawn from, and no others.

    Files of earlier versions name those that were given, whether drawn from or not.
    """
    drawn = {Cell.from_key(key).text_kind for key in part["cells"]}
    if "description" not in drawn:
        part["descriptions"] = None
    if "phrasing" not in drawn:
        part["phrasings"] = None
    elif part.get("phrasings") is None:
        part["phrasings"] = OWN_PHRASINGS


FLAGS = {
    "descriptions": "--descriptions",
    "phrasings": "--templates",
    "imagenet_c": "--as-jpeg and --nearest",
    "released": "--released",
    "attacked": "--attack-images",
}


class Outcomes:
    """``RUN/robustness_attacks.json``: what the model says of each attacked image.

    Attacks take minutes an image: a stopped one goes on after the last batch.
    """

    def __init__(self, path: Path, fingerprint: str):
        self.path = path
        self._content: dict[str, Any] = {"fingerprint": fingerprint, "parts": {}}
        self._has_forgotten = False
        if not path.is_file():
            return
        try:
            found = read_json(path)
            problem = mismatch(found, _OUTCOMES)
        except UsageError as error:
            problem = str(error)
        if problem:
            logger.info(f"{path}: {problem}; not used, attacks on single images are made anew")
        elif found["fingerprint"] == fingerprint:
            self._content = found

    def begin(self, subset: str, data: Mapping[str, str], words: Any, is_new: bool) -> None:
        """Go on with a subset; what is known of it on other images or in other words is forgotten.

        Args:
            data: digests of the test images' lists and files.
            words: class names and template.
            is_new: whether robustness.json has nothing on it. Files of earlier versions do not say
                what they are of: beside nothing they are not used.
        """
        digest = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
        known = self._content.setdefault("of", {}).get(subset)
        if known is None:
            is_same = not is_new
        else:
            is_same = known["words"] == digest and not unlike_data(known["data"], data)[0]
        if not is_same and self._content["parts"].get(subset):
            logger.info(
                f"{self.path}: what it has on the {subset} classes may be of other images; attacks "
                "on single images are made anew"
            )
            self.forget(subset)
        self._content["of"][subset] = {
            "data": {**(known or {}).get("data", {}), **data},
            "words": digest,
        }

    def of(
        self, subset: str, cell: Cell, rules: Collection[str], classes: int
    ) -> dict[str, dict[str, list[float]]]:
        """Return what is known, by image's key and inference rule.

        Args:
            rules: those that the model answers by.
            classes: how many there are. What is no answer among them is left out.
        """
        found = self._content["parts"].setdefault(subset, {}).setdefault(cell.key, {})
        damaged = [image for image, own in found.items() if not _is_answer(own, rules, classes)]
        if damaged:
            logger.info(
                f"{self.path}: {len(damaged)} of {len(found)} entries of {cell.key} are damaged; "
                "these images are attacked anew"
            )
        for image in damaged:
            del found[image]
        return found

    def forget(self, subset: str) -> None:
        """Drop what is known of a subset; `save_forgotten` takes it out of the file, too."""
        self._has_forgotten |= self._content["parts"].pop(subset, None) is not None
        self._content.get("of", {}).pop(subset, None)

    def save_forgotten(self) -> None:
        """Write the file if something in it was forgotten."""
        if self._has_forgotten:
            self.save()

    def save(self) -> None:
        """Write the file."""
        write_json(self._content, str(self.path))
        self._has_forgotten = False


def _is_answer(found: Mapping[str, Sequence[float]], rules: Collection[str], classes: int) -> bool:
    """Return whether an image's entry is what `Answers.of_image` gives."""
    return set(found) == set(rules) and all(
        len(values) == 3
        and values[0] in range(classes)
        and 0 <= values[1] <= 1 + 1e-6
        and -1e-6 <= values[2] <= 2 + 1e-6
        for values in found.values()
    )


def _contradict(known: Any, now: Any) -> bool:
    """Return whether two records differ; of dictionaries, in an entry that both have."""
    if isinstance(known, dict) and isinstance(now, dict):
        return any(known[key] != now[key] for key in known.keys() & now.keys())
    return bool(known != now)


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
