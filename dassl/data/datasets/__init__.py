"""The registry of data sets and their base class."""

from .base_dataset import DatasetBase, Datum
from .build import DATASET_REGISTRY, build_dataset, reading_of, task_of

__all__ = ["DATASET_REGISTRY", "DatasetBase", "Datum", "build_dataset", "reading_of", "task_of"]
