"""docs/SETTINGS.md, made from the descriptions of the settings.

``python -m anprompt.runs.settings_reference`` writes the file; a test compares it.
"""

import sys

from anprompt.runs.config import node_of
from anprompt.runs.declared import declare_datasets, declared
from common.files import atomic_write
from common.paths import ROOT
from common.settings import SCOPES, Setting, describe, leaves
from dassl.config import get_cfg_default

PATH = ROOT / "docs/SETTINGS.md"

INTRODUCTION = """\
# Settings

<!-- Made by python -m anprompt.runs.settings_reference from the descriptions in the code. -->

A run's settings come from, later ones winning: the defaults below, `--dataset-config-file`,
`--config-file`, flags, and `KEY VALUE` pairs at the end of the command (`OPTIM.MAX_EPOCH 5`). The
whole configuration of a run stands in its `config.yaml` and `results.json`.

A configuration file is YAML and nothing but data:

```yaml
_BASE_: ../../configs/trainers/CoOp/vit_b16.yaml  # seen from this file; here stands what differs
OPTIM:
  MAX_EPOCH: 20
TRAINER:
  COOP:
    CTX_INIT: "a photo of a"
```

- Every value is checked before anything is built: its type, its range, and that numbers are finite.
  A key that does not exist is refused with the nearest that does.
- A run has the settings of its own method. Those of other methods are taken with a line that says
  so, as are the settings of Dassl that have no use here.
- `..._BY_DATASET` is a table by the data set *trained on*, with an entry `default`. The setting of
  the same name without the ending, where it is not None, goes before the table. A table in a file
  stands in place of the default one; `{}` empties it. In the files of MMRL and MMRL++ the single
  value is for data sets that the table lacks, as in upstream's code.
- Evaluating a trained model takes the training's values of all settings marked *model*; those
  marked *inference* may differ, which is said and recorded.
"""

SCOPE_NOTES = "\n".join(f"- *{scope}*: {text}" for scope, text in SCOPES.items())

Rows = dict[str, tuple[object, Setting]]


def reference() -> str:
    """Return the text of docs/SETTINGS.md."""
    cfg = get_cfg_default()
    declare_datasets(cfg)
    groups: dict[str, Rows] = {}
    for name, value in leaves(cfg):
        setting = describe(name)
        if setting is not None:
            group = name.partition(".")[0] if "." in name else "General"
            groups.setdefault(group, {})[name] = (value, setting)
    for settings in declared().values():  # what a method uses of Dassl's own
        for name, setting in (settings or {}).items():
            if not node_of(name) and setting.scope != "unused" and name in leaves_of(groups):
                groups[name.partition(".")[0]][name] = (setting.default, setting)
    parts = [INTRODUCTION, "Where a setting matters:\n", SCOPE_NOTES + "\n"]
    parts += [f"## {group}\n\n{_table(rows)}" for group, rows in groups.items()]
    parts.append("## Methods\n")
    for node, (trainers, rows) in _methods().items():
        parts.append(f"### {', '.join(trainers)}: `TRAINER.{node}`\n\n{_table(rows)}")
    return "\n".join(parts)


def leaves_of(groups: dict[str, Rows]) -> set[str]:
    """Return the names of the settings in groups."""
    return {name for rows in groups.values() for name in rows}


def _methods() -> dict[str, tuple[list[str], Rows]]:
    """By node under TRAINER: the trainers that declare it, and its settings."""
    methods: dict[str, tuple[list[str], Rows]] = {}
    for trainer, settings in sorted(declared().items()):
        for name, setting in (settings or {}).items():
            if node := node_of(name):
                trainers, rows = methods.setdefault(node, ([], {}))
                rows[name] = (setting.default, setting)
                if trainer not in trainers:
                    trainers.append(trainer)
    return methods


def _table(rows: Rows) -> str:
    lines = ["| setting | default | takes | matters for | |", "| --- | --- | --- | --- | --- |"]
    for name, (value, setting) in rows.items():
        default = f"`{dict(value) if isinstance(value, dict) else value!r}`"
        cells = (f"`{name}`", default, setting.range_text(), setting.scope, setting.help)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write docs/SETTINGS.md."""
    with atomic_write(PATH) as file:
        file.write(reference())
    return 0


if __name__ == "__main__":
    sys.exit(main())
