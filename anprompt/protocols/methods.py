"""Methods: the trainer that runs, and its configuration for each protocol.

A method is a folder of ``configs/trainers``, named as its trainer. ``protocols.yaml`` there says
which of its files a protocol takes (all keys are optional)::

    name: zsclip          # what scripts and sweeps call it; default: the trainer's, in lower case
    learns: false         # nothing is trained: every run is an evaluation
    task: anomaly         # anomaly detection: no protocol of classification takes it
    unlabelled: true      # it learns from all training images of all classes, without labels, too
    configs: CoOp         # the folder whose files it takes; default: its own
    crossdata: vit_b16_ep50_ctxv1
    fewshot:              # the first line that fits
      - {dataset: imagenet, config: vit_b16_ep50}
      - {shots: [2, 3, 4], config: vit_b16_ep100}
      - {config: vit_b16}

A protocol that is not listed, or a folder without that file, takes the only YAML file there is, or
``default.yaml``. Nothing here needs torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from clip.weights import hub
from common import paths
from common.errors import UsageError
from common.names import nearest
from common.reading import read_text, read_yaml
from dassl.config.node import read_file

PROTOCOLS_FILE = "protocols.yaml"
_FOLDERS = ("base2new", "crossdata", "fewshot")
_KEYS = {"name", "learns", "configs", "task", "unlabelled", *_FOLDERS}
TASKS = (CLASSIFICATION, ANOMALY) = ("classification", "anomaly")


@dataclass(frozen=True)
class Rule:
    """One line of ``protocols.yaml``: a configuration, and what it is for (empty: anything)."""

    config: str
    dataset: str = ""
    shots: tuple[int, ...] = ()

    def fits(self, dataset: str, shots: int) -> bool:
        """Return whether the rule is for this data set and number of shots."""
        return self.dataset in ("", dataset) and (not self.shots or shots in self.shots)


@dataclass(frozen=True)
class Method:
    """A trainer and its configurations.

    Attributes:
        name: what scripts and sweeps call it (``coop``).
        trainer: its registered name (``CoOp``).
        learns: whether it trains.
        task: one of ``TASKS``, the trainer's own.
        unlabelled: whether it also learns from all training images of all classes, without labels.
        configs: the folder of its configurations; None for a plugin's trainer without one.
        rules: by protocol, the configurations that its ``protocols.yaml`` names.
    """

    name: str
    trainer: str
    learns: bool = True
    configs: Path | None = None
    task: str = CLASSIFICATION
    unlabelled: bool = False
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict, compare=False)

    def config(self, protocol: str, dataset: str, shots: int) -> str:
        """Return the configuration's name for a protocol.

        Args:
            protocol: base2new, crossdata or fewshot.
            dataset: the data set trained on.

        Raises:
            UsageError: the method's folder does not say which.
        """
        rules = self.rules.get(protocol, ())
        for rule in rules:
            if rule.fits(dataset, shots):
                return rule.config
        files = _config_names(self.configs) if self.configs else []
        if len(files) == 1 or "default" in files:
            return files[0] if len(files) == 1 else "default"
        if self.configs is None:
            raise UsageError(
                f"{self.trainer} has no folder in {_trainers()}; name its YAML file: "
                f"--cfg {self.trainer}=FILE.yaml (scripts: CFG=FILE.yaml)"
            )
        raise UsageError(
            f"{self.trainer} has no configuration for {protocol}; name one of {self.configs} "
            f"(--cfg {self.name}=NAME, scripts: CFG=NAME), or say which in {PROTOCOLS_FILE} there"
        )

    def config_file(self, config: str) -> Path:
        """Return the file of a configuration: a name in the method's folder, or a path (``.yaml``).

        Raises:
            UsageError: there is no such file; says the nearest names.
        """
        return _config_file(self, config, paths.ROOT)


def is_path(name: str) -> bool:
    """Return whether a configuration or data set is named by its file rather than its name."""
    return name.endswith((".yaml", ".yml"))


@cache
def _config_file(method: Method, config: str, root: Path) -> Path:
    if is_path(config):
        file = Path(config).expanduser()
        known: list[str] = []
    else:
        folder = method.configs or _trainers() / method.trainer
        file = folder / f"{config}.yaml"
        known = _config_names(file.parent)
    if not file.is_file():
        near = nearest(file.stem, known)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise UsageError(f"{method.trainer} has no configuration {config!r}: no {file}{hint}")
    return file


@cache
def own_backbone(file: Path) -> str:
    """Return the backbone that a configuration, or the one it starts from, names; "" where none.

    Ablations (files of a folder below the method's) count as naming none unless they do so
    themselves: their results' folders have always carried the backbone's name.
    """
    name, source = read_settings(file).get("MODEL.BACKBONE.NAME", ("", ""))
    return "" if file.parent.name == "ablations" and source != str(file) else str(name)


read_settings = cache(read_file)
"""What a configuration file and those that it starts from say (see `dassl.config.node`)."""


def weights_at_hand(backbone: str) -> bool:
    """Return whether the file of one of OpenAI's backbones is where downloads are kept."""
    file = hub.cache_folder() / f"{re.sub('[/@]', '-', backbone)}.pt"  # as OpenAI calls it
    return backbone in hub.OPENAI_NAMES and file.is_file()


def all_methods(task: str = CLASSIFICATION) -> list[Method]:
    """Return the methods of ``configs/trainers``, those that learn nothing first.

    Args:
        task: one of ``TASKS``; "" for all of them.
    """
    found = [_read(path) for path in sorted(_trainers().iterdir()) if path.is_dir()]
    found = [method for method in found if task in ("", method.task)]
    return sorted(found, key=lambda method: (method.learns, method.name))


def find_method(name: str, task: str = CLASSIFICATION) -> Method:
    """Return the method of a name: its own or its trainer's, whatever the case.

    Args:
        task: that it must be for; "" for any.

    Raises:
        UsageError: there is none; says the nearest, or which there are.
    """
    method = _by_name().get(_folded(name))
    if method is not None and task not in ("", method.task):
        known = ", ".join(other.name for other in all_methods(task))
        raise UsageError(f"{method.name} is a method of {method.task}; those of {task}: {known}")
    if method is None:
        names = [method.name for method in all_methods(task)]
        near = nearest(name, names)
        hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(names)}"
        raise UsageError(f"no method {name!r}; {hint} (a trainer of your own: PLUGIN=FILE.py)")
    return method


def method_of(trainer: str) -> Method:
    """Return the method of a trainer; of one that has no configurations here one without them."""
    return _method_of(trainer, paths.ROOT)


@cache
def _method_of(trainer: str, root: Path) -> Method:
    return _by_name().get(_folded(trainer)) or Method(trainer, trainer)


def plugin_method(name: str, plugins: Sequence[str], task: str = CLASSIFICATION) -> Method:
    """Return the method of a name, which may be a trainer that a plugin defines.

    Args:
        task: that it must be for.

    Raises:
        UsageError: as `find_method`, or a plugin cannot be read.
    """
    known = _by_name().get(_folded(name))
    if known is None and any(
        re.search(rf"\b{re.escape(name)}\b", read_text(Path(plugin).expanduser()))
        for plugin in plugins
    ):
        return Method(name, name, task=task)
    return known if known and known.task == task else find_method(name, task)


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _trainers() -> Path:
    return paths.ROOT / "configs" / "trainers"


def _by_name() -> dict[str, Method]:
    return _index(_trainers())


@cache
def _index(folder: Path) -> dict[str, Method]:
    methods = all_methods("")
    return {_folded(name): method for method in methods for name in (method.trainer, method.name)}


@cache
def _config_names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml") if path.name != PROTOCOLS_FILE)


@cache
def _read(folder: Path) -> Method:
    file = folder / PROTOCOLS_FILE
    content = (read_yaml(file) if file.is_file() else None) or {}
    if not isinstance(content, dict) or not content.keys() <= _KEYS:
        unknown = sorted(map(str, set(content) - _KEYS)) if isinstance(content, dict) else []
        raise UsageError(
            f"{file}: {', '.join(unknown) or 'not a mapping'}; it takes {', '.join(sorted(_KEYS))}"
        )
    for key in ("learns", "unlabelled"):
        if not isinstance(content.get(key, True), bool):
            raise UsageError(f"{file}: {key} is {content[key]!r}; expected true or false")
    task = content.get("task", CLASSIFICATION)
    if task not in TASKS:
        raise UsageError(f"{file}: task is {task!r}; expected {' or '.join(TASKS)}")
    return Method(
        task=task,
        name=str(content.get("name", folder.name.lower())),
        trainer=folder.name,
        learns=content.get("learns", True),
        unlabelled=content.get("unlabelled", False),
        configs=folder.parent / str(content.get("configs", folder.name)),
        rules={
            protocol: _rules(file, protocol, content[protocol])
            for protocol in _FOLDERS
            if protocol in content
        },
    )


def _rules(file: Path, protocol: str, given: object) -> tuple[Rule, ...]:
    if isinstance(given, str):
        return (Rule(given),)
    try:
        if not isinstance(given, list):
            raise TypeError
        return tuple(_rule(**line) for line in given)
    except TypeError:
        raise UsageError(
            f"{file}: {protocol} is neither a configuration's name nor a list of "
            "{dataset: NAME, shots: [1, 2], config: NAME}"
        ) from None


def _rule(config: str, dataset: str = "", shots: int | list[int] = ()) -> Rule:  # type: ignore[assignment]
    return Rule(config, dataset, (shots,) if isinstance(shots, int) else tuple(shots))
