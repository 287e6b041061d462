"""Figures under noise as numbers that know their cells."""

import statistics
from collections.abc import Callable, Iterable, Sequence

from anprompt.results.report.numbers import Expression, Number, cell_patterns, mean, minus
from anprompt.robustness.summary import Evaluation, Mean
from anprompt.robustness.table import Row


def _clean_of(evaluation: Evaluation, measure: str) -> Number:
    rule = evaluation.headline_rule
    key = f"{evaluation.path.as_posix()}#parts/{evaluation.part_name}/clean/{rule}/{measure}"
    return Number(evaluation.clean(measure), key)


def _cells(evaluation: Evaluation, keys: Iterable[str], measure: str) -> Expression:
    start = f"{evaluation.path.as_posix()}#parts/{evaluation.part_name}/cells/"
    end = f"/{evaluation.headline_rule}/{measure}"
    return ["noisy", *(f"{start}{pattern}{end}" for pattern in cell_patterns(keys))]


def clean(row: Row, measure: str = "accuracy") -> Number:
    """A method's figure without noise, over its runs."""
    return mean(_clean_of(evaluation, measure) for evaluation in row.evaluations)


def _over_runs(
    row: Row, group: str, value: Callable[[Mean], float], measure: str, keep: Callable[[str], bool]
) -> Number | None:
    if not all(group in means for means in row.means):
        return None
    numbers = []
    for evaluation, means in zip(row.evaluations, row.means, strict=True):
        keys = [key for key in means[group].keys if keep(key)]
        if not keys:
            return None
        numbers.append(Number(value(means[group]), _cells(evaluation, keys, measure)))
    return mean(numbers)


def noisy(row: Row, group: str, measure: str) -> Number | None:
    """A method's mean under a group of noise, over its runs; ``drop`` is clean minus noisy
    accuracy. None where a run lacks the group."""
    if measure == "drop":
        under = noisy(row, group, "accuracy")
        if under is None:
            return None
        cells = under.source[1:]
        return mean(
            minus(_clean_of(evaluation, "accuracy"), Number(value, source))
            for evaluation, value, source in zip(row.evaluations, under.values, cells, strict=True)
        )
    return _over_runs(row, group, lambda m: getattr(m, measure), measure, lambda key: True)


def of_kind(row: Row, group: str, kind: str) -> Number | None:
    """Accuracy under one kind of noise, mean over severities."""
    if not all(group in means and kind in means[group].by_kind for means in row.means):
        return None
    return _over_runs(
        row, group, lambda m: m.by_kind[kind], "accuracy", lambda key: key.split("/")[1] == kind
    )


def by_severity(row: Row, group: str) -> dict[int, Number]:
    """Accuracy by severity, clean at 0; nothing where a run lacks the group."""
    if not all(group in means for means in row.means):
        return {}
    severities = sorted(set.intersection(*(set(m[group].by_severity) for m in row.means)))
    curve = {0: clean(row)}
    for severity in severities:
        curve[severity] = _over_runs(
            row, group, lambda m, s=severity: m.by_severity[s], "accuracy",
            lambda key, s=severity: key.split("/")[2] == str(s),
        )  # fmt: skip
    return curve


def hardest_kind(rows: Sequence[Row], group: str) -> tuple[str, Number] | None:
    """The kind with the lowest accuracy, mean over methods; None with fewer than two kinds."""
    rows = [row for row in rows if row.values(group, "accuracy")]
    kinds = {kind for row in rows for means in row.means for kind in means[group].by_kind}
    found = {kind: mean(of_kind(row, group, kind) for row in rows) for kind in sorted(kinds)}
    known = {kind: number for kind, number in found.items() if number is not None}
    if len(known) < 2:
        return None
    kind = min(known, key=lambda name: known[name].value)
    return kind, known[kind]


def standard_error(row: Row, images: int) -> float:
    """By how many points chance alone moves an accuracy on that many images."""
    share = statistics.fmean(row.clean) / 100
    return 100 * (share * (1 - share) / images) ** 0.5
