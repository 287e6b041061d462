"""Name -> class tables behind ``cfg.TRAINER.NAME``, ``cfg.DATASET.NAME`` and the like."""

import logging
from collections.abc import Callable
from typing import Any

from common.errors import UsageError

from .tools import check_availability

__all__ = ["Registry"]

logger = logging.getLogger(__name__)


class Registry:
    """Objects by name; the name is the class's or function's own.

    >>> SHAPES = Registry("SHAPE")
    >>> @SHAPES.register()
    ... class Circle:
    ...     pass
    >>> SHAPES.get("Circle").__name__
    'Circle'
    """

    def __init__(self, name: str):
        self._name = name
        self._objects: dict[str, Any] = {}
        self.replaces = False  # whether a name that is taken goes to whoever registers it next

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Add ``obj``, or, called without one, return a decorator that does.

        Raises:
            UsageError: the name is taken and ``force`` is false.
        """
        if obj is None:
            return self._decorator(force)
        self._add(obj, force)
        return obj

    def get(self, name: str) -> Any:
        """The object registered as ``name``.

        Raises:
            UsageError: no such name; the message offers the nearest ones.
        """
        check_availability(name, self.registered_names(), kind=self._name.lower())
        return self._objects[name]

    def registered_names(self) -> list[str]:
        """All names, in order of registration."""
        return list(self._objects)

    def __contains__(self, name: str) -> bool:
        return name in self._objects

    def _decorator(self, force: bool) -> Callable:
        def add(obj: Any) -> Any:
            self._add(obj, force)
            return obj

        return add

    def _add(self, obj: Any, force: bool) -> None:
        name = obj.__name__
        if name in self._objects and not force:
            owner = self._objects[name].__module__
            if self.replaces:
                kind = self._name.lower()
                logger.info("%s %s is %s's, not %s's", kind, name, obj.__module__, owner)
                self._objects[name] = obj
                return
            raise UsageError(
                f"{self._name.lower()} {name} (from {obj.__module__}) is already registered by "
                f"{owner}; give it another name, or register(force=True) to replace it"
            )
        self._objects[name] = obj
