"""The first screen: any measure of any protocol as a table to sort, filter and copy.

The tables are those of `anprompt.results`, written as JSON that templates/explorer.js shows. A
number's source goes with it; entries of files are interned, as most numbers share them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from anprompt.results.aggregate import average, seeds_left_out
from anprompt.results.marks import marks
from anprompt.results.matrix import AVERAGE, make_matrices
from anprompt.results.measures import MEASURES
from anprompt.results.method import shots_in_words
from anprompt.results.noise.cells import Measured
from anprompt.results.noise.compare import Comparison
from anprompt.results.protocol_tables import OF_AVERAGES
from anprompt.results.render import escape_latex, escape_markdown, number_text
from anprompt.results.report.context import Context
from anprompt.results.statistics import standard_error
from anprompt.results.table import PROTOCOLS, SHORT, Column, Row, Table, in_order
from anprompt.results.value import Source, Value, leaves
from common.text import plain
from noise.cells import GROUPS

# Beside accuracy. Those that need the probabilities of all classes would take long to read.
MORE_MEASURES = {"macro_f1": "macro F1", "ece": "ECE", "adaptive_ece": "adaptive ECE", "nll": "NLL"}
NOISE_MEASURES = {
    "accuracy": "accuracy", "drop": "drop", "consistency": "same answers", "ece": "ECE",
}  # fmt: skip
MOST_CHARACTERS = 2_500_000  # of the tables on the first screen
# What is left out of more, in this order; (protocol, shown, kind, severity, seed) tells which.
LEAST: Sequence[tuple[str, Callable[[str, str, str, str, str], bool]]] = (
    (
        "single kinds of noise at single severities (robustness.json has them)",
        lambda protocol, shown, kind, severity, seed: ": " in kind and severity not in ("", "all"),
    ),
    (
        "single pairs of noise in image and text (robustness.json has them)",
        lambda protocol, shown, kind, severity, seed: kind.startswith("both: "),
    ),
    (
        "single severities (robustness.json has them, the figures below show them)",
        lambda protocol, shown, kind, severity, seed: severity not in ("", "all"),
    ),
)
FEW = 3  # with more data sets, noise is shown over data sets, not by kind for each
MEAN = "mean"


class Interned:
    """Texts by number, in the order they were first met."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Return the number of a text."""
        return self._numbers.setdefault(text, len(self._numbers))

    @property
    def texts(self) -> list[str]:
        """Return the texts by number."""
        return list(self._numbers)


class Explorer:
    """Views: a table each, with what chooses it."""

    def __init__(self, page: Context):
        self._page = page
        self._files, self._keys = Interned(), Interned()
        self._runs = {run.file: run for run in page.data.runs}

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without the least of it where it is very much."""
        views = [self._view(table, *chosen) for table, *chosen in self._tables()]
        for said, is_one in LEAST:
            if sum(len(json.dumps(view)) for view in views) > MOST_CHARACTERS:
                views = [view for view in views if not is_one(*view["choice"])]
                for view in views:
                    if view["choice"][3]:
                        view["notes"].append(f"Left out to keep this page small: {said}.")
        return {"views": views, "files": self._files.texts, "keys": self._keys.texts}

    def _tables(self) -> Iterator[tuple]:
        """Yield tables with protocol, what is shown, kind of noise, severity and seed."""
        data = self._page.data
        for protocol in data.tables:
            title = PROTOCOLS[protocol]
            for seed in (None, *data.seeds):
                tables = data.tables_of(protocol, seed=seed)
                chosen = MEAN if seed is None else str(seed)
                for table, shown in _shown(tables):
                    yield table, title, shown, "", "", chosen
            for measure, name in MORE_MEASURES.items():
                tables = [t for t in data.tables_of(protocol, measure) if _has_numbers(t)]
                for table, shown in _shown(tables, singles=False) if tables else ():
                    yield table, title, f"{name}, {shown}", "", "", MEAN
        yield from self._noise()

    def _noise(self) -> Iterator[tuple]:
        """Yield tables of figures under noise: over data sets, or by kind where they are few."""
        alike: dict[str, list[Comparison]] = {}
        for comparison in self._page.data.comparisons:
            details = [f"{comparison.subset} classes"]
            if len({c.backbone for c in self._page.data.comparisons}) > 1:
                details.append(comparison.backbone)
            several = len({c.shots for c in self._page.data.comparisons}) > 1
            if several and comparison.shots is not None:
                details.append(shots_in_words([comparison.shots]))
            alike.setdefault(f"Noise: {', '.join(details)}", []).append(comparison)
        for title, members in alike.items():
            severities = sorted({
                c.severity for m in members for r in m.rows for own in r.cells for g in own.values()
                for c in g
            })  # fmt: skip
            for severity in (None, *severities):
                chosen = "all" if severity is None else str(severity)
                if len(members) <= FEW:
                    for comparison in members:
                        for measure, name in NOISE_MEASURES.items():
                            table = self._by_kind(comparison, measure, severity)
                            yield table, title, f"{comparison.dataset}: {name}", "", chosen, MEAN
                else:
                    yield from self._over_data_sets(title, members, severity, chosen)

    def _over_data_sets(
        self, title: str, members: Sequence[Comparison], severity: int | None, chosen: str
    ) -> Iterator[tuple]:
        groups = [g for g in GROUPS if any(g in m.groups for m in members)]
        for group in groups:
            kinds = list(dict.fromkeys(kind for m in members for kind in m.kinds(group)))
            for measure, name in NOISE_MEASURES.items():
                table = self._noise_matrix(members, group, measure, None, severity)
                yield table, title, name, f"{group}, all kinds", chosen, MEAN
            for kind in kinds if len(kinds) > 1 else ():
                table = self._noise_matrix(members, group, "accuracy", kind, severity)
                yield table, title, "accuracy", f"{group}: {kind.replace('_', ' ')}", chosen, MEAN

    def _noise_matrix(
        self,
        members: Sequence[Comparison],
        group: str,
        measure: str,
        kind: str | None,
        severity: int | None,
    ) -> Table:
        names = in_order({member.dataset for member in members})
        by_row: dict[str, dict[str, tuple[Row, Value | None]]] = {}
        for member in members:
            for row in member.rows:
                value = row.value(group, measure, _cells(kind, severity))
                own = by_row.setdefault(row.method.name, {})
                own[member.dataset] = Row(row.method, (), row.rule, (row.count,)), value
        rows = []
        computed = []
        for row_name, own in by_row.items():
            values = [own[name][1] if name in own else None for name in names]
            computed.append((row_name, values))
            rows.append(replace(next(iter(own.values()))[0], values=(average(values), *values)))
        rows.sort(key=lambda row: self._page.names.index(row.name))
        named = [f"{AVERAGE} of {len(names)}", *(SHORT.get(name, name) for name in names)]
        notes = seeds_left_out(computed, OF_AVERAGES)
        return replace(_noise_table(named, rows, measure), notes=notes)

    def _by_kind(self, comparison: Comparison, measure: str, severity: int | None) -> Table:
        named: dict[str, tuple[str, str | None]] = {} if measure in ("drop", "consistency") else {
            "clean": ("", None)
        }  # fmt: skip
        for group in [g for g in GROUPS if g in comparison.groups]:
            kinds = comparison.kinds(group)
            named[group] = group, None
            if len(kinds) > 1 and group != "both":
                named |= {kind.replace("_", " "): (group, kind) for kind in kinds}
        rows = [
            Row(
                row.method,
                tuple(
                    row.value(group, measure, _cells(kind, severity))
                    for group, kind in named.values()
                ),
                row.rule,
                (row.count,),
            )
            for row in self._page.in_order(comparison)
        ]
        return _noise_table(named, rows, measure)

    def _view(
        self, table: Table, protocol: str, shown: str, kind: str, severity: str, seed: str
    ) -> dict[str, Any]:
        found = marks(table)
        tops = [_top(table, j) for j in range(len(table.columns))]
        return {
            "choice": [protocol, shown, kind, severity, seed],
            "measure": table.measure,
            "rule": found.rule,
            "notes": list(table.notes),
            "columns": [
                {"name": c.name, "latex": escape_latex(c.name), "markdown": escape_markdown(c.name),
                 "best": c.best}
                for c in table.columns
            ],
            "rows": [
                {
                    "name": row.name,
                    "latex": escape_latex(row.name),
                    "markdown": escape_markdown(row.name),
                    "rule": row.rule,
                    "seeds": row.seeds,
                    "cells": [
                        self._cell(table, j, value, tops[j], 1 if (i, j) in found.best else 0)
                        for j, value in enumerate(row.values)
                    ],
                }
                for i, row in enumerate(table.rows)
            ],
        }  # fmt: skip

    def _cell(
        self, table: Table, j: int, value: Value | None, top: Value | None, mark: int
    ) -> list | None:
        """Return text, deviation, mark, each seed's number, source, and what is said of it."""
        if value is None:
            return None
        column = table.columns[j]
        std = "" if value.std is None else f"{value.std:.{column.digits}f}"
        seeds = [f"seed {s}: {number_text(n, column)}" for s, n in value.by_seed.items()]
        said = ["; ".join(seeds)] if len(seeds) > 1 else []
        images = {run.num_test for run in self._runs_of(value)}
        if '"hm"' in json.dumps(value.source):
            images = set()
        if table.measure == MEASURES["accuracy"].title and len(images) == 1 and None not in images:
            number = int(images.pop() or 1)
            error = standard_error(min(max(value.number, 0.0), 100.0), number)
            said.append(f"{number:,} images: standard error of one run {error:.1f}")
        if top is not None and top is not value and table.evidence is not None:
            interval = table.evidence.interval(value, top)
            if interval:
                low, high = (number_text(bound, replace(column, signed=True)) for bound in interval)
                said.append(f"less the best: {value.number - top.number:+.2f}, 95% {low} to {high}")
        return [number_text(value.number, column), std, mark, self._source(value.source), said]

    def _runs_of(self, value: Value) -> list:
        files = {entry.partition("#")[0] for entry in leaves(value.source)}
        return [self._runs[file] for file in files if file in self._runs]

    def _source(self, source: Source) -> str | list:
        if isinstance(source, str):
            file, _, key = source.partition("#")
            return f"{self._files.number(plain(file))}.{self._keys.number(plain(key))}"
        return [source[0], *map(self._source, source[1:])]


def _shown(tables: Sequence[Table], singles: bool = True) -> Iterator[tuple[Table, str]]:
    """Yield a protocol's tables and what each shows: matrices over data sets first, the main one
    before the others, then each data set by itself."""
    if tables[0].protocol in ("crossdata", "domaingen"):
        yield from ((table, f"trained on {table.subject}") for table in tables)
        return
    subjects = [table for table in tables if table.subject]
    if len(subjects) > 1 or not singles:
        found = make_matrices(tables, order=[AVERAGE] if len(subjects) < len(tables) else [])
        found.sort(key=lambda table: table.panel != "HM")
        if tables[0].protocol == "fewshot":
            found.reverse()  # most shots first
        yield from ((table, table.panel) for table in found)
    if singles:
        yield from ((table, table.subject) for table in subjects)


def _has_numbers(table: Table) -> bool:
    return any(value for row in table.rows for value in row.values)


def _cells(kind: str | None, severity: int | None) -> Any:
    def choose(cell: Measured) -> bool:
        return kind in (None, cell.kind) and severity in (None, cell.severity)

    return choose


def _noise_table(names: Iterable[str], rows: list[Row], measure: str) -> Table:
    best = "lowest" if measure in ("drop", "ece") else "highest"
    told = NOISE_MEASURES[measure]
    return Table(
        "noise",
        told,
        [Column(name, 1, best) for name in names],
        rows,
        measure=f"{told[0].upper()}{told[1:]} in %",
        has_rules=False,
    )


def _top(table: Table, j: int) -> Value | None:
    """Return the best number of a column, of the methods' own protocol."""
    best = table.columns[j].best
    values: Iterable[Value] = [
        value
        for row in table.rows
        if row.is_protocol and not row.published and (value := row.values[j]) is not None
    ]
    if not best or not values:
        return None
    return (max if best == "highest" else min)(values, key=lambda value: value.number)
