"""The default configuration, its limits, and the node type that it is made of."""

from .defaults import check_config, fresh_config
from .node import Config

__all__ = ["Config", "check_config", "get_cfg_default"]


def get_cfg_default() -> Config:
    """A fresh copy of the default configuration, free to change."""
    return fresh_config()
