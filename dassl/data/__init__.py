"""Data sets, loaders and transforms.

Loaders and transforms need PyTorch and are imported when they are first asked for; data sets
(``dassl.data.datasets``) do without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data_manager import DataManager, build_data_loader
    from .dataset_wrapper import DatasetWrapper

__all__ = ["DataManager", "DatasetWrapper", "build_data_loader"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"{__name__}.data_manager"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
