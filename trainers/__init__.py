"""Methods, one file each. Importing this package registers all of them; no list to edit."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    if _module.name != "template":  # the example to copy is no method of its own
        importlib.import_module(f"{__name__}.{_module.name}")
