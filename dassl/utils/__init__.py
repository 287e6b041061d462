"""Helpers with upstream's names, all importable from here.

What needs PyTorch is imported when it is first asked for: data sets are found and compared without
it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from common.errors import UsageError
from common.images import read_image

from .logger import Logger, setup_logger
from .registry import Registry
from .tools import (
    atomic_write,
    check_availability,
    check_isfile,
    collect_env_info,
    listdir_nohidden,
    mkdir_if_missing,
    read_json,
    set_random_seed,
    tolist_if_not,
    write_json,
)

if TYPE_CHECKING:
    from .meters import AverageMeter, MetricMeter
    from .rng import get_rng_state, seeded, set_rng_state
    from .torchtools import (
        count_num_param,
        load_checkpoint,
        load_pretrained_weights,
        resume_from_checkpoint,
        save_checkpoint,
    )

_ON_DEMAND = {
    "meters": ("AverageMeter", "MetricMeter"),
    "rng": ("get_rng_state", "seeded", "set_rng_state"),
    "torchtools": (
        "count_num_param",
        "load_checkpoint",
        "load_pretrained_weights",
        "resume_from_checkpoint",
        "save_checkpoint",
    ),
}

__all__ = [
    "AverageMeter",
    "Logger",
    "MetricMeter",
    "Registry",
    "UsageError",
    "atomic_write",
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "count_num_param",
    "get_rng_state",
    "listdir_nohidden",
    "load_checkpoint",
    "load_pretrained_weights",
    "mkdir_if_missing",
    "read_image",
    "read_json",
    "resume_from_checkpoint",
    "save_checkpoint",
    "seeded",
    "set_random_seed",
    "set_rng_state",
    "setup_logger",
    "tolist_if_not",
    "write_json",
]


def __getattr__(name: str) -> Any:
    for module, names in _ON_DEMAND.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
