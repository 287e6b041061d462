"""Methods that see more than the others: their rows stand last, and apart from the contest."""

from anprompt.protocols.methods import method_of
from anprompt.results.method import Method
from anprompt.results.table import Row, Table


def is_apart(method: Method) -> bool:
    """Return whether a method learns from images that the others do not see."""
    return method_of(method.trainer).unlabelled


def last(rows: list[Row]) -> list[Row]:
    """Return rows in their order, those of such methods behind the others."""
    return sorted(rows, key=lambda row: is_apart(row.method))


def apart_notes(table: Table) -> list[str]:
    """Return a note on a table's rows of such methods, if it has any."""
    names = dict.fromkeys(row.method.trainer for row in table.rows if is_apart(row.method))
    if not names:
        return []
    learns, rows = ("learns", "its rows take") if len(names) == 1 else ("learn", "their rows take")
    return [
        f"{', '.join(names)} also {learns} from all training images of all classes, without "
        f"labels: {rows} no part in bold."
    ]
