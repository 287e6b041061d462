"""The settings that trainers declare, without importing them where possible.

A trainer's settings stand in its own file, which imports PyTorch. Recognising a finished run or
planning hundreds of them takes the settings only. What the trainers of this repository declare is
therefore kept in the user's cache, with a digest of all files that it could depend on: a change to
any of them has the trainers asked anew. The cache is plain data with a digest of its own, may be
removed at any time, and is done without where it cannot be written.
"""

import ast
import hashlib
import logging
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import Any

from common.files import atomic_write
from common.paths import ROOT, user_cache
from common.settings import Setting, declare, describe, leaves
from dassl.config import get_cfg_default

SOURCES = ("clip", "common", "dassl", "datasets", "noise", "trainers")
_KINDS = {kind.__name__: kind for kind in (bool, int, float, str)}
_DEFAULTS = {item.name: item.default for item in fields(Setting)}

logger = logging.getLogger(__name__)

# By dotted name; None for a trainer that adds settings without describing them.
Settings = dict[str, Setting] | None


def trainer_names() -> list[str]:
    """Return the registered names of the trainers, those of plugins too."""
    return [*dict.fromkeys([*declared(), *_plugged()])]


def extend(cfg: Any, trainer: str) -> None:
    """Add to a configuration what a trainer declares."""
    plugin = _plugged().get(trainer)
    # A stock trainer that declares none reads those of the one whose name it took over.
    own = plugin is None or not extend_cfgs_of(plugin)
    settings = declared().get(trainer, {}) if own else None
    if settings is not None:
        declare(cfg, "", settings)
        return
    for extend_cfg in extend_cfgs_of(_registry().get(trainer)):
        extend_cfg(cfg)


def declares_own(trainer: str) -> bool:
    """Whether a trainer declares all settings that it reads.

    One that was written for Dassl may read any method's, whatever it declares itself; so may one
    that declares none.
    """
    plugin = _plugged().get(trainer)
    if plugin is not None:
        return bool(getattr(plugin, "method", "") and extend_cfgs_of(plugin))
    return declared().get(trainer, {}) != {}


def declare_datasets(cfg: Any) -> None:
    """Add to a configuration what all data sets declare, those of plugins too."""
    import datasets  # noqa: F401  (registers the data sets)
    from dassl.data.datasets import DATASET_REGISTRY

    classes = map(DATASET_REGISTRY.get, DATASET_REGISTRY.registered_names())
    for extend_cfg in {getattr(cls, "extend_cfg", None): None for cls in classes}:
        if extend_cfg is not None:  # most share one
            extend_cfg(cfg)


@cache
def declared() -> dict[str, Settings]:
    """Return what this repository's trainers declare, by registered name.

    That is also settings of Dassl's that a trainer gives another default.
    """
    path = user_cache() / f"settings-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]}.txt"
    sources = _digest_of_sources()
    try:
        return _from_text(path.read_text(encoding="utf-8"), sources)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        found = _ask_all()  # none yet, of other sources, or damaged
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(_to_text(found, sources))
    except OSError as error:
        logger.debug("the settings are not kept in %s: %s", path, error)
    return found


def extend_cfgs_of(cls: type) -> list[Callable[[Any], None]]:
    """Return the functions by which a class and its bases declare settings, the bases' first.

    A base of another method is left out where one before it declares settings of the class's own
    method: this repository's trainers read those in its place. A plugin's may read both.
    """
    method = getattr(cls, "method", "")
    owners: list[type] = []
    for base in cls.__mro__:
        if "extend_cfg" in vars(base):
            is_replaced = _is_own(cls) and any(
                getattr(owner, "method", "") == method for owner in owners
            )
            if not is_replaced or getattr(base, "method", "") in ("", method):
                owners.insert(0, base)
    return [owner.extend_cfg for owner in owners]  # type: ignore[attr-defined]


def _registry() -> Any:
    """The trainers' registry with this repository's trainers in it."""
    import trainers  # noqa: F401  (registers them)
    from dassl.engine import TRAINER_REGISTRY

    return TRAINER_REGISTRY


def _plugged() -> dict[str, type]:
    """Return the registered classes that are not this repository's, by name."""
    if "dassl.engine" not in sys.modules:
        return {}  # nobody can have registered anything
    from dassl.engine import TRAINER_REGISTRY

    names = TRAINER_REGISTRY.registered_names()
    classes = {name: TRAINER_REGISTRY.get(name) for name in names}
    return {name: cls for name, cls in classes.items() if not _is_own(cls)}


def _is_own(cls: type) -> bool:
    return cls.__module__.startswith("trainers.")


def _ask_all() -> dict[str, Settings]:
    registry = _registry()
    classes = {name: registry.get(name) for name in registry.registered_names()}
    found = {name: _changes(extend_cfgs_of(cls)) for name, cls in classes.items() if _is_own(cls)}
    get_cfg_default()  # describes Dassl's own settings as Dassl does, again
    return found


def _changes(extend_cfgs: list[Callable[[Any], None]]) -> Settings:
    """Return the settings that functions add to the default configuration or describe anew."""
    cfg = get_cfg_default()
    before = {name: (value, describe(name)) for name, value in leaves(cfg)}
    for extend_cfg in extend_cfgs:
        extend_cfg(cfg)
    found: dict[str, Setting] = {}
    for name, value in leaves(cfg):
        setting = describe(name)
        if before.get(name) == (value, setting):
            continue
        if setting is None:
            return None
        plain = dict(value) if isinstance(value, dict) else value
        found[name] = setting if setting.default == plain else replace(setting, default=plain)
    return found


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for package in SOURCES:
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _to_text(found: dict[str, Settings], sources: str) -> str:
    content = repr(
        {
            trainer: None if settings is None else {n: _plain(x) for n, x in settings.items()}
            for trainer, settings in found.items()
        }
    )
    return f"{sources}\n{hashlib.sha256(content.encode()).hexdigest()}\n{content}\n"


def _from_text(text: str, sources: str) -> dict[str, Settings]:
    """Read what `_to_text` wrote; raises one of several errors where it is not that."""
    theirs, digest, content = text.rstrip("\n").split("\n", 2)
    if theirs != sources or hashlib.sha256(content.encode()).hexdigest() != digest:
        raise ValueError("of other sources, or damaged")
    return {
        trainer: None if plain is None else {name: _setting(**x) for name, x in plain.items()}
        for trainer, plain in ast.literal_eval(content).items()
    }


def _plain(setting: Setting) -> dict[str, Any]:
    """Return what a description has beside its defaults."""
    assert setting.kind is not None
    values = {name: getattr(setting, name) for name in _DEFAULTS} | {"kind": setting.kind.__name__}
    return {name: value for name, value in values.items() if value != _DEFAULTS[name]}


def _setting(kind: str, **values: Any) -> Setting:
    return Setting(kind=_KINDS[kind], **values)
