"""Data sets, loaders and transforms."""

import common.torchvision_compat  # noqa: F401  (before anything below imports torchvision)

from .data_manager import DataManager, build_data_loader
from .dataset_wrapper import DatasetWrapper

__all__ = ["DataManager", "DatasetWrapper", "build_data_loader"]
