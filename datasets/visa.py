"""VisA: twelve objects, split by a table.

References:
    [0] Zou et al., SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and
        Segmentation, 2022, https://arxiv.org/abs/2207.14315
"""

import csv
import os
from functools import cached_property

from common.errors import UsageError
from common.reading import read_text
from dassl.data.datasets import DATASET_REGISTRY
from datasets.anomaly import AnomalyDataset
from datasets.categories import Category, Sample
from datasets.splits import is_confined

SPLIT = "split_csv/1cls.csv"
COLUMNS = ("object", "split", "label", "image", "mask")


@DATASET_REGISTRY.register()
class VisA(AnomalyDataset):
    """Reads `SPLIT`: one class, normal images alone in training."""

    dataset_dir = "visa"

    @cached_property
    def _rows(self) -> dict[str, list[dict[str, str]]]:
        """The table's rows by object.

        Raises:
            UsageError: it is not that table.
        """
        path = os.path.join(self.dataset_dir, SPLIT)
        if not os.path.isfile(path):
            raise UsageError(f"{self.name}: no {path}. {self.help_line()}")
        try:
            table = list(csv.DictReader(read_text(path).splitlines()))
        except csv.Error as error:
            raise UsageError(f"{path}: not readable as a table ({error})") from None
        if not table or not set(COLUMNS) <= set(table[0]):
            raise UsageError(f"{path}: expected columns {', '.join(COLUMNS)}")
        rows: dict[str, list[dict[str, str]]] = {}
        for number, row in enumerate(table, start=2):
            paths = [row["image"] or "", *([row["mask"]] if row["mask"] else [])]
            is_known = row["split"] in ("train", "test") and row["label"] in ("normal", "anomaly")
            if not (row["object"] and is_known and all(map(is_confined, paths))):
                raise UsageError(
                    f"{path}, line {number}: expected an object, train or test, normal "
                    "or anomaly, and paths inside the data set"
                )
            rows.setdefault(row["object"], []).append(row)
        return rows

    def categories(self) -> list[str]:
        return sorted(self._rows)

    def read_category(self, name: str) -> Category:
        found = Category()
        for row in self._rows[name]:
            is_normal = row["label"] == "normal"
            if row["split"] == "test":
                found.test.append(
                    Sample(row["image"], "" if is_normal else "anomaly", row["mask"] or "")
                )
            elif is_normal:
                found.train.append(row["image"])
            else:
                found.problems.append(f"{row['image']} is anomalous and in train")
        found.train.sort()
        found.check()
        return found
