"""Published figures beside ours, from anprompt/results/published.json.

They are for 16 images a class, on the papers' data sets, and for CLIP ViT-B/16 where an entry names
no other backbone. An entry's "robust" has the same under an attack. None of ANPrompt is public.
"""

import statistics
from dataclasses import replace
from functools import cache
from pathlib import Path

from anprompt.results.method import Method
from anprompt.results.table import ELEVEN, Row, Table
from anprompt.results.value import Value, harmonic_mean
from common.errors import UsageError
from common.reading import read_json
from common.schema import PERCENT, Each, mismatch

FILE = Path(__file__).resolve().parent / "published.json"
BACKBONE = "ViT-B/16"

_HALVES = {"base": PERCENT, "new": PERCENT, "hm?": PERCENT, "std?": Each(PERCENT)}
_TARGETS = {"datasets": Each(PERCENT), "average": PERCENT}
_SHAPES: dict[str, dict] = {
    "base2new": {"average": _HALVES, "datasets?": Each(_HALVES)},
    "crossdata": _TARGETS,
    "domaingen": _TARGETS,
    "fewshot": {"average_by_shots": Each(PERCENT), "datasets?": Each(Each(PERCENT))},
}
_FILE = {
    protocol: [
        {
            "method": str,
            "source": str,
            "trainer?": str,
            "paper?": str,
            "backbone?": str,
            "remark?": str,
            "robust?": {"attack": str, **shape},
            **({"trained_on": str} if shape is _TARGETS else {}),
            **shape,
        }
    ]
    for protocol, shape in _SHAPES.items()
}


@cache
def load() -> dict:
    """Return the data file.

    Raises:
        UsageError: it cannot be read, or is not what it should be.
    """
    content = read_json(FILE)
    problem = mismatch(content, _FILE)
    if problem:
        raise UsageError(f"{FILE}: {problem}; restore the file, or pass --no-published")
    return content


def is_comparable(backbone: str, published: str = BACKBONE) -> bool:
    """Return whether a run's backbone is the one that published figures are for."""
    name = published.replace("/", "-")
    return backbone in (published, f"{name}:openai", f"{name}::openai")


def add_published(tables: list[Table], always: bool = False) -> list[Table]:
    """Return tables with a published row after each trainer's, and where they come from.

    Args:
        always: also beside rows of another backbone than the figures'.
    """
    numbers: dict[str, int] = {}  # by source, over all tables
    return [_with_published(table, always, numbers) for table in tables]


def _with_published(table: Table, always: bool, numbers: dict[str, int]) -> Table:
    rows: list[Row] = []
    notes, references = list(table.notes), []
    trainers = [row.method.trainer for row in table.rows]
    for i, row in enumerate(table.rows):
        rows.append(row)
        trainer = trainers[i]
        backbones = [r.method.backbone for r in table.rows if r.method.trainer == trainer]
        is_last = trainer not in trainers[i + 1 :]
        found = _find(table, trainer, None if always else backbones) if is_last else None
        if found:
            entry, values, remark = found
            paper = f" ({entry['paper']})" if "paper" in entry else ""
            source = f"{entry['method']}{paper}: {entry['source']}"
            number = numbers.setdefault(source, len(numbers) + 1)
            backbone = entry.get("backbone", BACKBONE)
            name = f"{entry['method']}, published ({backbone}) [{number}]"
            method = Method(trainer, backbone=backbone, name=name)
            rows.append(Row(method, values, published=source))
            references.append(f"[{number}] {source}")
            notes += [
                text for text in (remark, entry.get("remark", "")) if text and text not in notes
            ]
    return replace(table, rows=rows, notes=notes, references=references)


def _find(
    table: Table, trainer: str, backbones: list[str] | None
) -> tuple[dict, tuple[Value | None, ...], str] | None:
    """Return the entry that fills most of the table's cells; the authors' own figures first.

    Args:
        backbones: of the rows that the figures are to stand beside; None for any.
    """
    candidates = []
    for i, entry in enumerate(load()[table.protocol]):
        own = entry.get("backbone", BACKBONE)
        if entry.get("trainer") != trainer:
            continue
        if backbones is not None and not any(is_comparable(b, own) for b in backbones):
            continue
        place, figures = f"{table.protocol}/{i}", entry
        if table.attack:
            place, figures = f"{place}/robust", {**entry, **entry.get("robust", {})}
            if figures.get("attack") != table.attack:
                continue
        numbers, remark = FINDERS[table.protocol](table, figures)
        filled = sum(number is not None for number in numbers)
        if filled:
            stds = figures["average"].get("std", {}) if _is_printed_average(table) else {}
            names = [column.name for column in table.columns]
            values = tuple(
                None if n is None else Value(n, f"{FILE.name}#{place}", printed_std=stds.get(name))
                for name, n in zip(names, numbers, strict=True)
            )
            candidates.append(((bool(entry.get("rerun")), -filled), (entry, values, remark)))
    return min(candidates, key=lambda item: item[0])[1] if candidates else None


def _is_printed_average(table: Table) -> bool:
    is_whole = not table.subject and set(table.averaged) == set(ELEVEN)
    return table.protocol == "base2new" and is_whole


Numbers = list[float | None]
HERE = "Published averages are over the same data sets, computed here from the published figures."


def _base2new(table: Table, entry: dict) -> tuple[Numbers, str]:
    datasets = entry.get("datasets", {})
    remark = ""
    if table.subject:
        row = datasets.get(table.subject, {})
    elif set(table.averaged) == set(ELEVEN):
        row = entry["average"]
    elif table.averaged and set(table.averaged) <= set(datasets):
        row = {
            half: statistics.fmean(datasets[name][half] for name in table.averaged)
            for half in ("base", "new")
        }
        if all("hm" in datasets[name] for name in table.averaged):
            row["hm"] = harmonic_mean(row["base"], row["new"])
        remark = HERE
    else:
        row = {}
    return [row.get("base"), row.get("new"), row.get("hm"), None], remark


def _transfer(table: Table, entry: dict) -> tuple[Numbers, str]:
    if entry["trained_on"] != table.subject:
        return [], ""
    datasets = entry["datasets"]
    names = [table.subject, *(column.name for column in table.columns[1:-1])]
    average, remark = None, ""
    published = set(datasets) - {table.subject}
    if set(table.averaged) == (published or set(ELEVEN) - {table.subject}):
        average = entry["average"]
    elif table.averaged and set(table.averaged) <= published:
        average = statistics.fmean(datasets[name] for name in table.averaged)
        remark = HERE
    return [*(datasets.get(name) for name in names), average], remark


def _fewshot(table: Table, entry: dict) -> tuple[Numbers, str]:
    by_shots = entry.get("datasets", {}).get(table.subject, {})
    if not table.subject:
        by_shots = entry["average_by_shots"] if set(table.averaged) == set(ELEVEN) else {}
    return [by_shots.get(column.name.split()[0]) for column in table.columns], ""


FINDERS = {
    "base2new": _base2new,
    "crossdata": _transfer,
    "domaingen": _transfer,
    "fewshot": _fewshot,
}
