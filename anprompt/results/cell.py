"""A cell of protocol tables: a data set and a column (base or new, a number of shots)."""

from anprompt.results.run import Run
from anprompt.runs.recorded import ALL_IMAGES

Cell = tuple[str, str]
Cells = dict[Cell, dict[int, Run]]
ALL = "all"  # the column of trainings on all images; other columns of shots are numbers


def is_shots(column: str) -> bool:
    """Return whether a column is one of shots."""
    return column.isdigit() or column == ALL


def shots_of(column: str) -> int:
    """Return the shots that a column of few-shot tables has."""
    return ALL_IMAGES if column == ALL else int(column)


def by_shots(column: str) -> tuple[bool, int]:
    """Sort columns of few-shot tables: all images last."""
    return column == ALL, shots_of(column)


def places(cells: list[Cell]) -> str:
    """Return cells in words; shots are named where they are columns."""
    by_dataset: dict[str, list[str]] = {}
    for dataset, column in cells:
        shots = by_dataset.setdefault(dataset, [])
        if is_shots(column) and column not in shots:
            shots.append(column)
    shown = {
        dataset: "/".join(sorted(shots, key=by_shots)) for dataset, shots in by_dataset.items()
    }
    return ", ".join(f"{name} at {text}" if text else name for name, text in shown.items())
