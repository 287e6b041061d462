"""The default configuration."""

from .defaults import _C
from .node import Config

__all__ = ["Config", "get_cfg_default"]


def get_cfg_default() -> Config:
    """A fresh copy of the default configuration, free to change."""
    return _C.clone()
