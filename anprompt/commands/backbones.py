"""List the backbones that open_clip knows, the methods that run on each, and why others do not.

    python -m anprompt backbones                 all of them
    python -m anprompt backbones 'ViT-L*'        those whose name, ARCHITECTURE::TAG, matches
    python -m anprompt backbones eva02           or contains these letters

Nothing is downloaded: open_clip's registry says what a model consists of. --backbone takes the
names of the list, hf-hub:ORG/NAME, a folder of such a model, or a file (docs/BACKBONES.md).
"""

import argparse
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from clip.weights import hub, names
from clip.weights.configs import Preprocessing
from common.cli import CommandParser
from common.errors import UsageError

WIDTH = 110


@dataclass
class Row:
    """An architecture with those of its weights that were asked for.

    Attributes:
        reason: why no method runs on it; "" where some do.
        has_vit: whether methods can put prompts into its image tower.
    """

    name: str
    pixels: Preprocessing = field(default_factory=Preprocessing)
    has_vit: bool = False
    reason: str = ""
    tags: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Return its line."""
        text = f"{self.name}  {self.pixels.resolution} px"
        if self.tags:
            text += f"  {', '.join(self.tags)}"
        clips = Preprocessing()
        if (self.pixels.mean, self.pixels.std) != (clips.mean, clips.std):
            text += f"  (pixel mean {self.pixels.mean}, std {self.pixels.std})"
        if self.reason:
            text += f"  {self.reason}"
        return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="      ")


def known_rows(pattern: str = "") -> list[Row]:
    """Return what open_clip's registry has, and the bundled CLIP; architectures in its order.

    Args:
        pattern: of the name ``ARCHITECTURE::TAG``, with wildcards or a part of it; OpenAI's own
            names fit as well.
    """
    rows: dict[tuple, Row] = {}
    if _fits("small", pattern):
        rows["small",] = Row("small", names.preprocessing("small"), has_vit=True)
    openais = {theirs: name for name, theirs in hub.OPENAI_NAMES.items()}
    for architecture, tag in hub.tags():
        own = openais[architecture] if tag == "openai" and architecture in openais else ""
        if not (_fits(f"{architecture}::{tag}", pattern) or _fits(own, pattern)):
            continue
        row = _row(architecture, tag)
        shown = row.pixels.resolution, row.pixels.mean, row.pixels.std
        row = rows.setdefault((architecture, *shown, row.has_vit, row.reason), row)
        row.tags.append(f"{tag} (= {own})" if own not in ("", architecture) else tag)
    return list(rows.values())


def _fits(name: str, pattern: str) -> bool:
    name, pattern = name.casefold(), pattern.casefold()
    return pattern in name or fnmatch(name, pattern) or fnmatch(name, f"{pattern}::*")


def _row(architecture: str, tag: str) -> Row:
    try:
        facts = hub.facts(architecture, tag)
    except UsageError as error:
        reason = str(error).removeprefix(f"{architecture}::{tag}: ").split("; ")[0]
        size = hub.config(architecture)["vision_cfg"].get("image_size", 224)
        return Row(architecture, Preprocessing(size), reason=reason)
    layers = hub.config(architecture)["vision_cfg"].get("layers", 12)
    has_vit = "image_tower" not in facts.settings and isinstance(layers, int)
    return Row(architecture, facts.pixels or Preprocessing(), has_vit)


def methods() -> tuple[list[str], list[str]]:
    """Return the names of all methods, and of those that put nothing into the image tower.

    Each is asked to build its model on a small CLIP with an image tower of another kind.
    """
    from torch import nn

    from anprompt.runs.config import default_cfg
    from anprompt.runs.declared import trainer_names
    from anprompt.runs.trained import quiet
    from clip.model import CLIP
    from dassl.engine import TRAINER_REGISTRY
    from trainers.backbone import NeedsViT
    from trainers.base import ClassPrompts

    tower: Any = nn.Module()
    tower.output_dim = 64
    model = CLIP(64, tower, 77, 49408, text_width=64, text_heads=1, text_layers=12)
    registered = {name: TRAINER_REGISTRY.get(name) for name in sorted(trainer_names())}
    everything = [
        name
        for name, found in registered.items()
        if getattr(found, "task", "classification") == "classification"
    ]
    text_only = []
    for name in everything:
        build = getattr(TRAINER_REGISTRY.get(name), "build", None)
        if build is None:  # of a trainer written for Dassl nothing is known
            continue
        try:
            with quiet():
                build(default_cfg(name), model, ClassPrompts("a photo of a {}.", ["cat", "dog"]))
        except NeedsViT:
            continue
        text_only.append(name)
    return everything, text_only


def report(rows: list[Row]) -> Iterator[str]:
    """Yield the lines of the list."""
    everything, text_only = methods()
    groups = (
        (f"all methods: {', '.join(everything)}", [r for r in rows if r.has_vit]),
        (
            f"{', '.join(text_only)}: they put nothing into the image tower",
            [r for r in rows if not r.has_vit and not r.reason],
        ),
        ("no method: learned prompts need CLIP's own text tower", [r for r in rows if r.reason]),
    )
    for heading, members in groups:
        if members:
            yield textwrap.fill(heading, WIDTH)
            yield from (row.describe() for row in members)
            yield ""
    counts = [sum(max(len(r.tags), 1) for r in members) for _, members in groups]
    total = f"{sum(counts)} model{'s' if sum(counts) > 1 else ''}"
    yield (
        f"{total}: {counts[0]} with all methods, {counts[1]} with those that prompt the text "
        f"alone, {counts[2]} with none. Names: ARCHITECTURE::TAG"
    )


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt backbones",
        description=__doc__,
    )
    parser.add_argument(
        "pattern", nargs="?", default="", metavar="PATTERN", help="glob, or part of the name"
    )
    return parser


def main(argv: list[str]) -> int:
    """Run ``anprompt backbones``; returns the exit status."""
    args = make_parser().parse_args(argv)
    rows = known_rows(args.pattern)
    if not rows:
        raise UsageError(
            f"no backbone is called {args.pattern!r}; without a pattern all are listed"
        )
    print("\n".join(report(rows)))
    return 0
