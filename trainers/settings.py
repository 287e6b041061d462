"""How methods declare their settings, and the descriptions that many of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.settings import Setting, declare

PRECISIONS = ("fp32", "fp16", "amp", "bf16")
PIXEL_MEAN = [0.48145466, 0.4578275, 0.40821073]  # CLIP's
PIXEL_STD = [0.26862954, 0.26130258, 0.27577711]


def declare_method(cfg: Any, node: str, settings: Mapping[str, Setting]) -> None:
    """Declare a method's settings below ``TRAINER``; its images are normalised as CLIP's are.

    Dassl's own defaults are ImageNet's mean and standard deviation, which no CLIP was trained with.

    Args:
        cfg: the configuration, ours or Dassl.pytorch's.
        node: name of the method's group of settings.
        settings: descriptions by name, see ``common.settings``.
    """
    declare(cfg, f"TRAINER.{node}", settings)
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = list(PIXEL_MEAN), list(PIXEL_STD)


def precision(default: str) -> Setting:
    """Describe ``PREC``."""
    return Setting(
        default,
        "precision; fp16 and amp need a GPU and mean fp32 on a CPU",
        choices=PRECISIONS,
        scope="inference",
    )


def context_words(default: str = "", help: str = "initial words of the context") -> Setting:
    """Describe ``CTX_INIT``; True stands for the words that upstream's KgCoOp and ProGrad mean."""
    return Setting(default, help, true="a photo of a")


def count(default: int, help: str, at_least: int = 1, at_most: int = 64) -> Setting:
    """Describe a number of learned vectors, or of layers that get some."""
    return Setting(default, help, ge=at_least, le=at_most)


def by_dataset(
    name: str, help: str, default: dict[str, Any], below: bool = False, **limits: Any
) -> dict[str, Setting]:
    """Describe a number that may depend on the data set trained on, and its table.

    Args:
        name: of the number; the table is ``NAME_BY_DATASET``.
        default: the table's.
        below: whether a file that gives the number alone gives the table's entry "default".
        limits: as of `Setting`.
    """
    table = f"{name}_BY_DATASET"
    return {
        name: Setting(
            None,
            f"{help}; None: from the table",
            optional=True,
            below=table if below else "",
            **limits,
        ),
        table: Setting(default, f"{help}, by data set trained on", table=True, **limits),
    }
