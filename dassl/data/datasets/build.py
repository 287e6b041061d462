"""Data sets by name."""

from typing import TYPE_CHECKING

from common.images import AS_SEEN, UPSTREAM
from dassl.utils import Registry, UsageError, check_availability

if TYPE_CHECKING:
    from dassl.config import Config

    from .base_dataset import DatasetBase

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg: "Config") -> "DatasetBase":
    """Read the data set that ``cfg.DATASET.NAME`` names.

    Raises:
        UsageError: unknown name, or a file it needs is missing.
    """
    name = cfg.DATASET.NAME
    check_availability(name, DATASET_REGISTRY.registered_names(), kind="data set (DATASET.NAME)")
    if cfg.VERBOSE:
        print(f"Loading dataset: {name}")
    try:
        return DATASET_REGISTRY.get(name)(cfg)
    except FileNotFoundError as error:
        raise UsageError(
            f"{name}: {error.filename or error} not found; DATASET.ROOT is {cfg.DATASET.ROOT!r}"
        ) from error


def reading_of(name: str) -> str:
    """Return how images of a data set are read, one of ``common.images.READINGS``.

    Pictures for a data set that is not known here are read as they are seen.
    """
    if name not in DATASET_REGISTRY:
        return AS_SEEN
    return getattr(DATASET_REGISTRY.get(name), "reading", UPSTREAM)


def task_of(name: str) -> str:
    """Return what a data set is for: classification or anomaly; "" for one that is not known."""
    if name not in DATASET_REGISTRY:
        return ""
    return getattr(DATASET_REGISTRY.get(name), "task", "classification")
