"""The one cure for importing torchvision beside a CPU-only PyTorch.

PyPI's torchvision wheels carry operators compiled against the CUDA build of PyTorch. Beside a
CPU-only torch that library cannot be loaded, and ``import torchvision`` then fails with "operator
torchvision::nms does not exist", because torchvision attaches shape functions to operators nobody
declared. Declaring the two schemas first is enough: image transforms do not call them. Where the
real operators are present (``torchvision._C`` loads), this module changes nothing.

Import it before torchvision or anything that imports torchvision (open_clip does)::

    import common.torchvision_compat  # noqa: F401
    import torchvision
"""

import importlib.util
import pathlib
import sys

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _operators_load() -> bool:
    """Whether torchvision's compiled operators can be loaded beside this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for library in pathlib.Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return True
    return False


def _declare_missing_operators() -> torch.library.Library | None:
    if "torchvision" in sys.modules or _operators_load():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        try:
            library.define(name + schema)
        except RuntimeError:  # already declared by somebody else
            continue
    return library


# The declarations live as long as this object does.
_LIBRARY = _declare_missing_operators()
