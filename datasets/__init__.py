"""Data sets, each a small file on one shared base. Importing this package registers them all.

Neither this nor reading a data set's lists needs PyTorch.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    if not _module.name.startswith("_"):
        import_module(f"{__name__}.{_module.name}")

from datasets.identity import identity  # noqa: E402

__all__ = ["identity"]
