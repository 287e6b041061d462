"""The runs of anomaly detection: a category, K normal images, a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anprompt.protocols.plan import PROTOCOLS, Protocol, RunSpec
from common.errors import UsageError

NO_CATEGORY = "-"  # of a folder that is a category itself


@dataclass(frozen=True)
class AnomalyRun(RunSpec):
    """One run on one category.

    Attributes:
        category: as the data set calls it; "" where the data set's folder is one itself.
        place: what folders of results are called after: the data set, or one's own folder.
    """

    category: str = ""
    place: str = ""

    def __str__(self) -> str:
        name = " ".join(filter(None, (self.place, self.category)))
        return f"{self.method} {name} {self.shots} shots seed {self.seed} {self.stage}"

    @property
    def rules(self) -> Protocol:
        return PROTOCOLS["fewshot"]  # the same settings: all classes, the protocol FS

    def folder(self, output: str | Path) -> str:
        """Return the run's folder below ``output``."""
        parts = [self.stage, self.place, self.category or NO_CATEGORY, f"shots_{self.shots}"]
        parts += [self.method, self.config_label, f"seed{self.seed}"]
        return "/".join([str(output), "anomaly", *parts])

    def argv(self, output: str | Path, **named: Any) -> list[str]:
        """Return train.py's arguments."""
        options = ["DATASET.CATEGORY", self.category, *named.pop("options", ())]
        return super().argv(output, options=options, **named)


def categories_of(name: str, root: str, image_dir: str = "") -> list[str]:
    """Return the categories of a data set.

    Args:
        name: registered.
        root: the folder that holds the data sets.
        image_dir: of one's own images.

    Raises:
        UsageError: it is not there, or not for anomaly detection.
    """
    import datasets  # noqa: F401  (registers the data sets)
    from dassl.data.datasets import DATASET_REGISTRY, task_of

    if task_of(name) != "anomaly":
        raise UsageError(f"{name} is a data set for classification")
    return DATASET_REGISTRY.get(name).reader(root, image_dir=image_dir).categories()
