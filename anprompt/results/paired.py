"""Differences of methods to one of them, on the same images and seeds."""

from collections.abc import Sequence
from dataclasses import replace

from anprompt.results.evidence import Evidence
from anprompt.results.matrix import UNLIKE_SEEDS, find_row, have_like_seeds, value_in
from anprompt.results.table import Column, Table
from anprompt.results.value import Value, minus
from common.errors import UsageError

NOTES = [
    "Differences in points, first less second; [low, high]: 95% interval by paired bootstrap over "
    "test images and seeds; *: it leaves out zero. Intervals are not corrected for their number.",
    "p: McNemar's exact test over all pairs of answers. The seeds of one image count as pairs of "
    "their own though they are alike, so with several seeds p is too small: go by the interval.",
]


def paired_tables(tables: Sequence[Table], evidence: Evidence, against: str) -> list[Table]:
    """Return tables of differences to one method, a column for each that has a best number.

    Args:
        against: the method, as a row or a trainer is called.

    Raises:
        UsageError: there is no such method, or no run kept predictions.
    """
    if not evidence.has_any:
        raise UsageError(
            "--paired compares answers to each image, and no run here kept them "
            "(predictions.npz); test again with TEST.SAVE_PREDICTIONS True"
        )
    return [_paired(table, evidence, against) for table in tables]


def _paired(table: Table, evidence: Evidence, against: str) -> Table:
    own = [row for row in table.rows if not row.published]
    protocol = [row for row in own if row.is_protocol]
    rows, compared = [], set()
    unlike = False
    for row in own:
        other = find_row(protocol, against, row)
        if row is other:
            continue
        compared.add(other.name)
        theirs = [value_in(table, other, column.name) for column in table.columns]
        known = list(zip(row.values, theirs, strict=True))
        is_like = [have_like_seeds(row, other, *pair) for pair in known]
        unlike |= not all(is_like)
        pairs = [pair if like else (None, None) for pair, like in zip(known, is_like, strict=True)]
        differences = [_difference(*pair, evidence) for pair in pairs]
        p_values = [_p_value(*pair, evidence) for pair in pairs]
        values = [value for pair in zip(differences, p_values, strict=True) for value in pair]
        rows.append(replace(row, values=tuple(values)))
    columns = [
        column
        for own in table.columns
        for column in (
            replace(own, best="", signed=True),
            Column(f"p, {own.name}", digits=4, best=""),
        )
    ]
    shown = [j for j in range(len(columns)) if any(row.values[j] for row in rows)]
    notes = list(table.notes)
    if any(value and not value.interval for row in rows for value in row.values[::2]):
        notes.append("No interval where a run kept no predictions, or was tested on other images.")
    if unlike:
        notes.append(UNLIKE_SEEDS)
    return replace(
        table,
        title=f"{table.title}, less {' or '.join(sorted(compared)) or against}",
        columns=[columns[j] for j in shown],
        rows=[replace(row, values=tuple(row.values[j] for j in shown)) for row in rows],
        measure=f"{table.measure}: differences in points",
        notes=notes,
    )


def _difference(first: Value | None, second: Value | None, evidence: Evidence) -> Value | None:
    """Return a difference with its interval."""
    found = minus(first, second)
    if found is None or first is None or second is None:
        return None
    return replace(found, interval=evidence.interval(first, second))


def _p_value(first: Value | None, second: Value | None, evidence: Evidence) -> Value | None:
    if first is None or second is None:
        return None
    p = evidence.p_value(first, second)
    return None if p is None else Value(p, ["mcnemar", first.source, second.source])
