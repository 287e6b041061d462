"""Read a table (CSV) of one's own images: path, label and, where there is one, split."""

import csv
import io
import posixpath
import re
from pathlib import Path

from common.errors import UsageError, one_line
from common.reading import read_text
from datasets.folders import Found, is_image, split_of
from datasets.splits import SPLITS, is_confined

COLUMNS = {
    "path": (
        "path", "file", "filename", "file_name", "filepath", "file_path", "image", "images", "img",
        "image_path", "image_name", "image_file", "img_path", "impath",
    ),
    "label": ("label", "labels", "class", "classname", "class_name", "category", "target"),
    "split": ("split", "part", "partition", "subset", "set", "fold"),
}  # fmt: skip
DELIMITERS = ",;\t"


def read_table(path: str | Path) -> Found:
    """Read the images of a table by split; one "" where it has none.

    The first row may name the columns, in any order (see ``COLUMNS``; others are left out);
    without it they are path, label and, if there are three, split. Cells are separated by commas,
    or, as spreadsheets do it in some languages, by semicolons or tabs. Each row has as many cells
    as the first. The encoding is UTF-8, or UTF-16 with a byte order mark.

    Raises:
        UsageError: the file cannot be read as a table at all.
    """
    found = Found()
    rows = _rows(path)
    if not rows:
        return found
    (first_line, first), width = rows[0], len(rows[0][1])
    columns = _columns(first, f"{path}, line {first_line}", found)
    if columns is None:
        columns = ["path", "label", "split"][:width]
        if width not in (2, 3) or not _is_data(first, rows):
            found.problems.append(
                f"{path}, line {first_line}: expected path,label[,split], found "
                f"{','.join(first)[:80]!r}; columns that are named path, label and split may "
                "stand in any order"
            )
    else:
        rows.pop(0)
    seen: dict[str, int] = {}
    for line, row in rows if not found.problems else ():
        problem = _add_row(row, line, columns, width, seen, found)
        if problem:
            found.problems.append(f"{path}, line {line}: {problem}")
    if len(found.splits) > 1 and "" in found.splits:
        found.problems.append(
            f"{path}: {found.splits[''][0][0]} has no split while other rows have one"
        )
    return found


def _rows(path: str | Path) -> list[tuple[int, list[str]]]:
    """Return the rows that hold something, each with the number of its (last) line."""
    text = read_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((sign for sign in DELIMITERS if sign in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise UsageError(
            f"{path}, line {reader.line_num}: not a CSV file ({one_line(error)})"
        ) from error
    return rows


def _columns(row: list[str], where: str, found: Found) -> list[str] | None:
    """Return what each column of a header holds ("" for others), None where the row is data."""
    words = [re.sub(r"[\s-]+", "_", cell.casefold()) for cell in row]
    columns = [
        next((column for column, names in COLUMNS.items() if word in names), "") for word in words
    ]
    if any(is_image(cell) for cell in row) or not any(columns):
        return None
    for column in ("path", "label"):
        if column not in columns:
            found.problems.append(
                f"{where}: no column is called {column} (or "
                f"{', '.join(COLUMNS[column][1:4])} ...); found {', '.join(row)[:80]}"
            )
    for column in COLUMNS:
        if columns.count(column) > 1:
            names = [cell for cell, known in zip(row, columns, strict=True) if known == column]
            found.problems.append(f"{where}: {' and '.join(names)} both mean {column}; keep one")
    unused = [cell or "(no name)" for cell, known in zip(row, columns, strict=True) if not known]
    if unused and not found.problems:
        found.notes.append(f"columns that are not used: {', '.join(unused)[:120]}")
    return columns


def _is_data(row: list[str], rows: list[tuple[int, list[str]]]) -> bool:
    """Return whether the first row's path looks like the others': if not, it names columns."""
    return is_image(row[0]) or not any(is_image(other[0]) for _, other in rows[1:3] if other)


def _add_row(
    row: list[str], line: int, columns: list[str], width: int, seen: dict[str, int], found: Found
) -> str:
    """Add a row to ``found``; return what is wrong with it."""
    if len(row) != width:
        return f"{len(row)} cells where the first row has {width}: {','.join(row)[:80]!r}"
    cells = {column: cell for column, cell in zip(columns, row, strict=True) if column}
    image, key, word = (cells.get(column, "") for column in ("path", "label", "split"))
    if not image or not key:
        return f"expected path,label[,split], found {','.join(row)[:80]!r}"
    if not is_confined(image):
        return f"path {image!r:.120} leaves the image folder; make it relative"
    split = split_of(word)
    if word and not split:
        return f"split {word!r:.40}; choose from {', '.join(SPLITS)}"
    image = posixpath.normpath(image.replace("\\", "/"))
    if image in seen:
        return f"{image} is listed in line {seen[image]} already"
    seen[image] = line
    found.splits.setdefault(split, []).append((image, key))
    return ""
