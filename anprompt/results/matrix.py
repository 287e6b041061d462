"""Methods by data sets: one measure of a protocol's tables, with their average.

The numbers are those of `anprompt.results.protocol_tables`; nothing is computed here but the
difference of two rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from anprompt.results.method import Method
from anprompt.results.table import SHORT, Row, Table
from anprompt.results.value import Value, ends, minus
from common.errors import UsageError
from common.names import nearest

AVERAGE = "average"
UNLIKE_SEEDS = "No difference where the methods have other seeds: those are not paired."
SHORT_COLUMNS = {"HM of means": "HM"}  # what a panel of that column is called


def make_matrices(
    tables: Sequence[Table], columns: Iterable[str] = (), order: Sequence[str] = ()
) -> list[Table]:
    """Return a table of methods by data sets for each column of a protocol's tables.

    Args:
        tables: of one protocol. Those of transfer have data sets as columns already.
        columns: measures to show, in this order ("base", "16 shots"); none: all. The beginning of
            a name will do.
        order: of data sets, by name, the average as "average"; those not named follow.

    Raises:
        UsageError: there is no such column or data set.
    """
    if tables[0].protocol in ("crossdata", "domaingen"):
        return [_ordered(table, order) for table in tables]
    single = [table for table in tables if table.subject]
    names = list(dict.fromkeys(column.name for table in single for column in table.columns))
    chosen = [_named(name, names, "column") for name in columns] or names
    found = [_matrix(tables, name) for name in chosen if name != "0 shots" or len(names) == 1]
    return [_ordered(table, order) for table in found]


def _named(name: str, known: Sequence[str], what: str) -> str:
    """Return the known name that one begins, whatever the case."""
    wanted = name.strip().casefold()
    exact = [own for own in known if own.casefold() == wanted]
    found = exact or [own for own in known if own.casefold().startswith(wanted)]
    if not wanted or not found:
        near = nearest(name, known)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UsageError(f"no {what} {name!r}{hint} There are: {', '.join(known)}")
    return found[0]


def _matrix(tables: Sequence[Table], column: str) -> Table:
    rows: dict[tuple[Method, str], dict[str, tuple[Row, Value | None]]] = {}
    subjects = [table.subject or AVERAGE for table in tables]
    for table, subject in zip(tables, subjects, strict=True):
        for row in table.rows:
            key = row.method, row.rule
            rows.setdefault(key, {})[subject] = row, value_in(table, row, column)
    first = tables[0]
    form = next(c for table in tables for c in table.columns if c.name == column)
    shown = SHORT_COLUMNS.get(column, column)
    averaged = next((table.averaged for table in tables if not table.subject), [])
    return replace(
        first,
        title=f"{first.title.partition(':')[0]}: {shown}",
        subject="",
        columns=[
            replace(form, name=f"average of {len(averaged)}" if name == AVERAGE else _short(name))
            for name in subjects
        ],
        rows=[
            replace(
                next(iter(own.values()))[0],
                values=tuple(own[name][1] if name in own else None for name in subjects),
                counts=ends(count for row, _ in own.values() for count in row.counts),
                between="-",
                runs=tuple({run.file: run for row, _ in own.values() for run in row.runs}.values()),
            )
            for own in rows.values()
            if any(value for _, value in own.values())
        ],
        averaged=averaged,
        notes=list(dict.fromkeys(note for table in tables for note in table.notes)),
        references=list(dict.fromkeys(r for table in tables for r in table.references)),
        panel=shown,
    )


def _short(dataset: str) -> str:
    return SHORT.get(dataset, dataset)


def value_in(table: Table, row: Row, column: str) -> Value | None:
    """Return a row's number in a column; what learns nothing has one for all shots."""
    names = [own.name for own in table.columns]
    if table.protocol == "fewshot" and not row.method.learns and "0 shots" in names:
        column = "0 shots"
    return row.values[names.index(column)] if column in names else None


def _ordered(table: Table, order: Sequence[str]) -> Table:
    """Return a matrix with its columns in another order."""
    names = [column.name for column in table.columns]
    whole = {short: name for name, short in SHORT.items()}
    known = [AVERAGE if name.startswith(AVERAGE) else whole.get(name, name) for name in names]
    first = [known.index(_named(name, known, "data set")) for name in order]
    places = [*first, *(i for i in range(len(names)) if i not in first)]
    return replace(
        table,
        columns=[table.columns[i] for i in places],
        rows=[replace(row, values=tuple(row.values[i] for i in places)) for row in table.rows],
    )


def with_difference(table: Table, against: str) -> Table:
    """Return a matrix with one more row: the last row of ours less that of another method.

    Raises:
        UsageError: there is no such method, or it is the last itself.
    """
    rows = [row for row in table.rows if row.is_protocol and not row.published]
    other = find_row(rows, against, rows[-1])
    if other is rows[-1]:
        raise UsageError(f"{against!r} is the last row itself; --methods says the order of rows")
    pairs = list(zip(rows[-1].values, other.values, strict=True))
    is_like = [have_like_seeds(rows[-1], other, *pair) for pair in pairs]
    row = Row(
        Method(rows[-1].method.trainer, name=f"{rows[-1].name} less {other.name}"),
        tuple(minus(*pair) if like else None for pair, like in zip(pairs, is_like, strict=True)),
        is_difference=True,
    )
    notes = [*table.notes, *([] if all(is_like) else [UNLIKE_SEEDS])]
    return replace(table, rows=[*table.rows, row], notes=notes)


def have_like_seeds(first: Row, other: Row, value: Value | None, theirs: Value | None) -> bool:
    """Return whether the numbers of two rows can be subtracted: over the same seeds, or one of what
    learns nothing. Missing ones can, as their difference is missing as well."""
    both_learn = first.method.learns and other.method.learns
    return not (both_learn and value and theirs and _seeds(value) != _seeds(theirs))


def _seeds(value: Value) -> set[int]:
    return set(value.by_seed or value.seeds)


def find_row(rows: Sequence[Row], name: str, like: Row) -> Row:
    """Return the row of a method, of several the one with a row's backbone and shots.

    Raises:
        UsageError: there is none, or more than one.
    """
    wanted = name.strip().casefold()
    exact = [row for row in rows if row.name.casefold() == wanted]
    found = exact or [row for row in rows if row.method.trainer.casefold() == wanted]
    if not found:
        raise UsageError(f"no row of {name!r}; there are: {', '.join(row.name for row in rows)}")
    alike = [
        row
        for row in found
        if row.method.backbone == like.method.backbone
        and (
            not row.method.learns or not like.method.learns or row.method.shots == like.method.shots
        )
    ]
    if len(alike or found) > 1:
        raise UsageError(f"{name!r} may be {' or '.join(row.name for row in alike or found)}")
    return (alike or found)[0]
