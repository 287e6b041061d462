"""Which numbers of a table stand out: one rule, whatever the table is written as."""

from collections.abc import Sequence
from dataclasses import dataclass

from anprompt.results.apart import is_apart
from anprompt.results.method import Method
from anprompt.results.table import Column, Evidence, Table
from anprompt.results.value import Value

RULE = (
    "Bold: best of the rows with the same backbone, shots and seeds, if the 95% interval of its "
    "lead over each of the others, by paired bootstrap over test images and seeds, leaves out "
    "zero; where no predictions were kept, the best as printed, ties included."
)


@dataclass(frozen=True)
class Marks:
    """Places (row, column) that stand out.

    Attributes:
        best: bold.
        second: underlined, where a table underlines: the next best; also the best where it is not
            bold because nothing separates it from the next.
        tested: columns in which the paired intervals decided.
    """

    best: frozenset[tuple[int, int]]
    second: frozenset[tuple[int, int]]
    tested: frozenset[int]

    @property
    def rule(self) -> str:
        """Return what bold means, in a sentence; "" where nothing could be bold."""
        if self.tested:
            return RULE
        if self.best:
            return (
                "Bold: best of the rows with the same backbone, shots and seeds as printed, ties "
                "included; no predictions were kept to test the differences."
            )
        return ""


def marks(table: Table) -> Marks:
    """Return what is best in each column: the one rule for bold, whatever a table is written as.

    Compared are rows of ours that share backbone, shots and seeds, each method by its own inference
    rule, where there are two at least. A method that learns nothing is the same for all shots and
    seeds. The best is bold if the paired
    interval of its lead over every other leaves out zero. Without predictions, numbers are
    compared as printed, and ties are all bold.
    """
    best: set[tuple[int, int]] = set()
    second: set[tuple[int, int]] = set()
    tested: set[int] = set()
    for j, column in enumerate(table.columns):
        ours = [
            (i, row.method, value)
            for i, row in enumerate(table.rows)
            if row.is_protocol
            and not (row.published or row.is_difference or is_apart(row.method))
            and (value := row.values[j]) is not None
            and column.best
        ]
        learners = {_alike(method, value) for _, method, value in ours if method.learns}
        for key in learners or {(method.backbone,) for _, method, _ in ours}:
            members = [
                (i, value)
                for i, method, value in ours
                if method.backbone == key[0] and (not method.learns or _alike(method, value) == key)
            ]
            if len(members) < 2:
                continue
            groups = _by_printed(members, column)
            intervals = _leads(groups[0][0][1], members, table.evidence)
            if intervals is not None:
                tested.add(j)
            sign = 1 if column.best == "highest" else -1
            is_separated = intervals is None or (
                len(groups[0]) == 1 and all(min(sign * a, sign * b) > 0 for a, b in intervals)
            )
            first = {(i, j) for i, _ in groups[0]}
            best |= first if is_separated else set()
            second |= set() if is_separated else first
            if len(first) == 1 and groups[1:]:
                second |= {(i, j) for i, _ in groups[1]}
    return Marks(frozenset(best), frozenset(second - best), frozenset(tested))


def _by_printed(
    members: Sequence[tuple[int, Value]], column: Column
) -> list[list[tuple[int, Value]]]:
    """Return rows by their number as printed, the best first."""
    groups: dict[float, list[tuple[int, Value]]] = {}
    for i, value in members:
        groups.setdefault(round(value.number, column.digits), []).append((i, value))
    return [groups[n] for n in sorted(groups, reverse=column.best == "highest")]


def _leads(
    top: Value, members: Sequence[tuple[int, Value]], evidence: Evidence | None
) -> list[tuple[float, float]] | None:
    """Return intervals of a number less each of the others; None where one is not known."""
    if evidence is None:
        return None
    found = [evidence.interval(top, value) for _, value in members if value is not top]
    known = [interval for interval in found if interval is not None]
    return known if len(known) == len(found) else None


def _alike(method: Method, value: Value) -> tuple:
    return method.backbone, method.shots, value.seeds or frozenset(value.by_seed)
