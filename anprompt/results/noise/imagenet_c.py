"""ImageNet-C: accuracy by category, and the errors that its authors define."""

import statistics

from anprompt.results.noise.compare import Comparison, NoiseRow
from anprompt.results.table import Column, Row, Table
from anprompt.results.value import Value, over_seeds
from noise.imagenet_c import CATEGORIES, TEST_KINDS
from noise.metrics import corruption_errors, effective_robustness

MADE = {"imagenet-c": "made in memory", "imagenet-c-disk": "on disk, as released"}


def imagenet_c_tables(comparison: Comparison) -> list[Table]:
    """Return ImageNet-C by categories, made in memory or on disk: a table each, where measured."""
    groups = ("imagenet-c", "imagenet-c-disk")
    return [_imagenet_c_table(comparison, group) for group in groups if group in comparison.groups]


def _imagenet_c_table(comparison: Comparison, group: str) -> Table:
    """Return accuracy on ImageNet-C by category; corruption errors where they have a meaning."""
    kinds = comparison.kinds(group)
    counted = f"{len(kinds)} kind{'s' if len(kinds) != 1 else ''}"
    columns = [Column("clean", 1), Column(counted, 1)]
    columns += [Column(category, 1) for category in CATEGORIES]
    columns += [Column("mCE", 1, "lowest"), Column("relative mCE", 1, "lowest"), Column("ER", 1)]
    rows = []
    for row in comparison.rows:
        found = [row.value(""), row.value(group)]
        for category in CATEGORIES:
            own = {kind for kind, known in TEST_KINDS.items() if known.category == category}
            found.append(row.value(group, choose=lambda cell, own=own: cell.kind in own))  # type: ignore[misc]
        found += [_corruption_error(row, group, relative) for relative in (False, True)]
        found.append(_effective(row, group, comparison))
        rows.append(Row(row.method, tuple(found), row.rule, (row.count,)))
    shown = [j for j in range(len(columns)) if any(row.values[j] for row in rows)]
    table = Table(
        protocol="noise",
        title=f"{comparison.dataset}, {comparison.subset} classes: ImageNet-C, {MADE[group]}",
        columns=[columns[j] for j in shown],
        rows=[
            Row(row.method, tuple(row.values[j] for j in shown), row.rule, row.counts)
            for row in rows
        ],
        subject=f"{comparison.dataset}, {comparison.subset} classes",
        measure=f"Mean accuracy in %, {MADE[group]}; corruption errors in % of AlexNet's",
        counted="runs",
        has_rules=True,
    )
    if group == "imagenet-c":
        ways = (e.imagenet_c for row in comparison.rows for e in row.evaluations)
        made = next(filter(None, ways), "")
        table.notes.append(
            f"made in memory{' ' * bool(made)}{made}; figures on the released files differ "
            "somewhat, and mCE is defined on those"
        )
    return table


def _is_whole_imagenet(row: NoiseRow, group: str) -> bool:
    """Return whether AlexNet's errors compare: released files; all classes, images and cells."""
    return group == "imagenet-c-disk" and all(
        evaluation.header["dataset"] == "ImageNet"
        and len(evaluation.part["classnames"]) == 1000
        and evaluation.part["images"]["used"] == evaluation.part["images"].get("of")
        and {(cell.kind, cell.severity) for cell in groups.get(group, ())}
        == {(kind, severity) for kind in TEST_KINDS for severity in range(1, 6)}
        for evaluation, groups in zip(row.evaluations, row.cells, strict=True)
    )


def _corruption_error(row: NoiseRow, group: str, relative: bool) -> Value | None:
    """Return mCE or relative mCE over a method's runs."""
    if not _is_whole_imagenet(row, group):
        return None
    found: dict[int, Value | None] = {}
    for evaluation, groups in zip(row.evaluations, row.cells, strict=True):
        clean = evaluation.clean()
        assert clean is not None
        errors: dict[str, list[float]] = {}
        for cell in sorted(groups[group], key=lambda cell: cell.severity):
            errors.setdefault(cell.kind, []).append(100 - cell.figures["accuracy"])
        own = corruption_errors(errors, 100 - clean.number if relative else None)
        under = evaluation.under(groups[group])
        assert under is not None
        name = "relative_mce" if relative else "mce"
        sources = [name, under.source, *([clean.source] if relative else [])]
        found[evaluation.header["seed"]] = Value(statistics.fmean(own.values()), sources)
    return over_seeds(found)


def _effective(row: NoiseRow, group: str, comparison: Comparison) -> Value | None:
    """Return effective robustness over a method's runs."""
    if not _is_whole_imagenet(row, group):
        return None
    found: dict[int, Value | None] = {}
    for evaluation, groups in zip(row.evaluations, row.cells, strict=True):
        clean, under = evaluation.clean(), evaluation.under(groups[group])
        assert clean is not None and under is not None
        number = effective_robustness("imagenet-c", clean.number, under.number)
        found[evaluation.header["seed"]] = Value(number, ["er", clean.source, under.source])
    return over_seeds(found)
