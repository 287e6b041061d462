"""Published figures beside ours, from anprompt/results/published.json.

They are for CLIP ViT-B/16 and 16 images a class, on the papers' data sets. None of ANPrompt is
public.
"""

import json
import statistics
from dataclasses import replace
from functools import cache
from pathlib import Path

from anprompt.results.run import harmonic_mean
from anprompt.results.table import ELEVEN, Figure, Line, Table

FILE = Path(__file__).resolve().parent.parent / "published.json"
BACKBONE = "ViT-B/16"


@cache
def load() -> dict:
    """The data file."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def is_comparable(backbone: str) -> bool:
    """Whether a run's backbone is the one that published figures are for."""
    return backbone in (BACKBONE, "ViT-B-16:openai", "ViT-B-16::openai")


def add_published(tables: list[Table], always: bool = False) -> list[Table]:
    """Tables with a published row after each trainer's, and where they come from.

    Args:
        always: also beside rows of another backbone; else only beside ViT-B/16.
    """
    numbers: dict[str, int] = {}  # by source, over all tables
    return [_with_published(table, always, numbers) for table in tables]


def _with_published(table: Table, always: bool, numbers: dict[str, int]) -> Table:
    lines: list[Line] = []
    notes, references = list(table.notes), []
    for i, line in enumerate(table.lines):
        lines.append(line)
        of_trainer = [other for other in table.lines if other.trainer == line.trainer]
        is_last = not any(other.trainer == line.trainer for other in table.lines[i + 1 :])
        if not is_last or not (always or any(is_comparable(o.backbone) for o in of_trainer)):
            continue
        found = _find(table, line.trainer)
        if found:
            entry, figures, remark = found
            paper = f" ({entry['paper']})" if "paper" in entry else ""
            source = f"{entry['method']}{paper}: {entry['source']}"
            number = numbers.setdefault(source, len(numbers) + 1)
            method = f"{entry['method']}, published ({BACKBONE}) [{number}]"
            lines.append(Line(method, line.trainer, figures, backbone=BACKBONE, source=source))
            references.append(f"[{number}] {source}")
            if remark and remark not in notes:
                notes.append(remark)
    return replace(table, lines=lines, notes=notes, references=references)


def _find(table: Table, trainer: str) -> tuple[dict, tuple[Figure | None, ...], str] | None:
    """The entry that fills most of the table's cells; the authors' own figures first."""
    candidates = []
    for entry in load()[table.protocol]:
        if entry.get("trainer") == trainer:
            values, remark = FINDERS[table.protocol](table, entry)
            filled = sum(value is not None for value in values)
            if filled:
                figures = tuple(None if value is None else Figure(value) for value in values)
                rank = (bool(entry.get("rerun")), -filled)
                candidates.append((rank, (entry, figures, remark)))
    return min(candidates, key=lambda item: item[0])[1] if candidates else None


Values = list[float | None]
HERE = "Published averages are over the same data sets, computed here from the published figures."


def _base2new(table: Table, entry: dict) -> tuple[Values, str]:
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
        row["hm"] = harmonic_mean(row["base"], row["new"])
        remark = HERE
    else:
        row = {}
    return [row.get("base"), row.get("new"), row.get("hm"), None], remark


def _transfer(table: Table, entry: dict) -> tuple[Values, str]:
    if entry["trained_on"] != table.subject:
        return [], ""
    datasets = entry["datasets"]
    names = [table.subject, *table.columns[1:-1]]
    average, remark = None, ""
    published = set(datasets) - {table.subject}
    if set(table.averaged) == (published or set(ELEVEN) - {table.subject}):
        average = entry["average"]
    elif table.averaged and set(table.averaged) <= published:
        average = statistics.fmean(datasets[name] for name in table.averaged)
        remark = HERE
    return [*(datasets.get(name) for name in names), average], remark


def _fewshot(table: Table, entry: dict) -> tuple[Values, str]:
    if table.subject or set(table.averaged) != set(ELEVEN):
        return [], ""
    by_shots = entry["average_by_shots"]
    return [by_shots.get(column.split()[0]) for column in table.columns], ""


FINDERS = {
    "base2new": _base2new,
    "crossdata": _transfer,
    "domaingen": _transfer,
    "fewshot": _fewshot,
}
