"""``RUN/robustness.json``: every cell that was measured, so that a stopped evaluation goes on."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from anprompt.results.noise import FILE_NAME, FORMAT, summary_for_people
from anprompt.robustness.plan import Cell, in_order
from dassl.utils import UsageError, atomic_write, read_json, write_json

PICTURES = "robustness_examples"


class Store:
    """The results of one model, by part of the classes; written as a whole after every addition.

    A model that was trained anew starts over, and with ``redo`` every part that is asked for. Other
    images or descriptions than the stored ones are refused: mixing them would compare unlike
    things, and dropping the old ones could lose hours.
    """

    def __init__(self, folder: Path, header: dict[str, Any], redo: bool = False):
        self.path = folder / FILE_NAME
        self.is_stale = False
        self._redo = redo
        self.content: dict[str, Any] = {"format": FORMAT, **header, "parts": {}}
        if not self.path.is_file():
            return
        try:
            found = read_json(str(self.path))
            if not isinstance(found, dict) or found.get("format") != FORMAT:
                raise UsageError(
                    f"{self.path}: not written by this version; remove it, or pass --redo"
                )
        except UsageError:
            if redo:
                return
            raise
        if found.get("fingerprint") == header["fingerprint"]:
            self.content["parts"] = found["parts"]
        else:
            self.is_stale = True

    def part(self, name: str, header: dict[str, Any], descriptions: str | None) -> dict[str, Any]:
        """The results on one part, begun if there are none.

        Args:
            header: what all its cells depend on.
            descriptions: names the file that kind ``description`` draws from; None: not used now.

        Raises:
            UsageError: there are results on other images, classes or descriptions.
        """
        if self._redo:
            self.content["parts"].pop(name, None)
        part = self.content["parts"].setdefault(
            name,
            {
                **header,
                "descriptions": None,
                "clean": {},
                "cells": {},
                "examples": [],
                "text_examples": [],
            },
        )
        wanted = dict(header)
        if descriptions is not None and part["descriptions"] is not None:
            wanted["descriptions"] = descriptions
        for key, value in wanted.items():
            if part.get(key) != value:
                raise UsageError(
                    f"{self.path}: its {name} classes were evaluated with other {key} "
                    f"({_brief(part.get(key))}; now {_brief(value)}). Give the same --images and "
                    "--descriptions, or pass --redo to begin anew"
                )
        part["descriptions"] = descriptions or part["descriptions"]
        return part

    def missing(self, name: str, cells: Sequence[Cell]) -> list[Cell]:
        """Those of ``cells`` that are not measured yet."""
        there = self.content["parts"][name]["cells"]
        return [cell for cell in cells if cell.key not in there]

    def add(self, name: str, measured: dict[Cell, dict[str, dict[str, float]]]) -> None:
        """Take in cells; `save` writes them."""
        cells = self.content["parts"][name]["cells"]
        cells.update({cell.key: figures for cell, figures in measured.items()})
        ordered = in_order([Cell.from_key(key) for key in cells])
        self.content["parts"][name]["cells"] = {cell.key: cells[cell.key] for cell in ordered}

    def save(self) -> None:
        """Write the file, with a summary of its cells for whoever opens it."""
        for part in self.content["parts"].values():
            if part["clean"]:
                part["summary"] = summary_for_people(part, self.content["noise_in_training"])
        write_json(self.content, str(self.path))

    def save_picture(self, name: str, picture: Image.Image) -> str:
        """Keep a picture beside the results; returns its path relative to the run's folder."""
        relative = f"{PICTURES}/{name}.jpg"
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90)
        with atomic_write(str(self.path.parent / relative), "wb") as file:
            file.write(buffer.getvalue())
        return relative


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
