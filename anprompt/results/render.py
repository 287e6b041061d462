"""Tables as text, Markdown, CSV, LaTeX and JSON.

Names come from files and folders that anybody may have written: every format escapes what would be
a command or a formula in it, and none has control characters.
"""

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from tabulate import SEPARATING_LINE, DataRow, Line, TableFormat, tabulate

from anprompt.results.marks import marks
from anprompt.results.table import Column, Row, Table
from anprompt.results.value import Value
from anprompt.runs.recorded import ALL_IMAGES
from common.text import plain

MISSING = "-"
FORMAT_OF_SUFFIX = {
    ".md": "markdown", ".csv": "csv", ".txt": "text", ".tex": "latex", ".json": "json",
}  # fmt: skip


def number_text(number: float, column: Column) -> str:
    """Return a number with the column's digits, and no minus before a zero."""
    value = round(number, column.digits) + 0.0
    return f"{value:{'+' if column.signed and value else ''}.{column.digits}f}"


def value_text(value: Value | None, column: Column, sign: str = "+-") -> str:
    """Return a value with its deviation, a difference with its interval and its mark."""
    if value is None:
        return MISSING
    text = number_text(value.number, column)
    if value.interval:
        low, high = (number_text(bound, column) for bound in value.interval)
        return f"{text} [{low}, {high}]{'*' if value.is_separated else ''}"
    if value.std is None or not column.has_deviation:
        return text
    return f"{text} {sign} {value.std:.{column.digits}f}"


def has_rules(tables: Sequence[Table]) -> bool:
    """Return whether the tables have a column for inference rules."""
    told = [table.has_rules for table in tables if table.has_rules is not None]
    return any(told) if told else any(row.rule for table in tables for row in table.rows)


def _header(table: Table, rules: bool) -> list[str]:
    start = ["method", *(["rule"] if rules else []), table.counted]
    return [plain(name) for name in (*start, *(column.name for column in table.columns))]


def _start(row: Row, rules: bool) -> list[str]:
    names = [row.name, *([row.rule or MISSING] if rules else []), row.seeds or MISSING]
    return [plain(name) for name in names]


def _cells(table: Table, row: Row, rules: bool, sign: str) -> list[str]:
    shown = [
        value_text(v, c, sign) for v, c in zip(row.values, columns_of(table, row), strict=True)
    ]
    return [*_start(row, rules), *shown]


def columns_of(table: Table, row: Row) -> list[Column]:
    """Return how a row's numbers are written: those of a difference with their sign."""
    if not row.is_difference:
        return table.columns
    return [replace(column, signed=True) for column in table.columns]


def _references(tables: Sequence[Table]) -> list[str]:
    return list(dict.fromkeys(reference for table in tables for reference in table.references))


_RULE = Line("", "-", "--", "")
_COLUMNS = DataRow("", "  ", "")
_TEXT = TableFormat(_RULE, _RULE, None, _RULE, _COLUMNS, _COLUMNS, 0, None)


def text(tables: list[Table], notes: list[str]) -> str:
    """Return aligned columns for a terminal."""
    rules = has_rules(tables)
    blocks: list[str] = []
    for table in tables:
        header = _header(table, rules)
        rows = [_cells(table, row, rules, "+-") for row in table.rows]
        sides = ["left"] * (1 + rules) + ["right"] * (len(header) - 1 - rules)
        # The header is a row: tabulate makes columns with headers two wider than they need to be.
        shown = tabulate([header, SEPARATING_LINE, *rows], tablefmt=_TEXT, colalign=sides,
                         disable_numparse=True)  # fmt: skip
        block = "\n".join(line.rstrip() for line in shown.splitlines())
        if table.title:
            blocks.append(f"{plain(table.title)}\n{block}")
        else:  # one rule between it and the table above
            blocks[-1] = "\n".join([*blocks[-1].splitlines()[:-1], block])
        blocks[-1] = "\n".join([blocks[-1], *map(plain, table.notes)])
    notes = [plain(note) for note in (*_references(tables), *notes)]
    return "\n\n".join(blocks + (["\n".join(notes)] if notes else [])) + "\n"


_MARKDOWN = re.compile(r"[\\`*\[\]<>|~$#&]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.|@")


def escape_markdown(words: object) -> str:
    """Return plain words as Markdown: no code, links, tags, formulas or further cells."""
    return _MARKDOWN.sub(r"\\\g<0>", plain(words))


_CELLS = DataRow("| ", " | ", " |")
_PIPES = TableFormat(None, None, None, None, _CELLS, _CELLS, 0, None)


def markdown_table(header: list[str], rows: list[list[str]], left: int) -> str:
    """Return a Markdown table; the first ``left`` columns are aligned left, numbers right."""
    ruler = ["---"] * left + ["---:"] * (len(header) - left)
    escaped = [[escape_markdown(cell) for cell in row] for row in (header, *rows)]
    cells = [escaped[0], ruler, *escaped[1:]]
    return tabulate(cells, tablefmt=_PIPES, disable_numparse=True, stralign=None)


def markdown(tables: list[Table], notes: list[str]) -> str:
    """Return a Markdown table each."""
    rules = has_rules(tables)
    blocks = []
    for table in tables:
        header = _header(table, rules)
        rows = [_cells(table, row, rules, "±") for row in table.rows]
        lines = markdown_table(header, rows, 1 + rules)
        blocks.append("\n\n".join(filter(None, [
            f"## {escape_markdown(table.title)}" if table.title else "", lines,
            "\n".join(f"- {escape_markdown(note)}" for note in table.notes),
        ])))  # fmt: skip
    listed = "\n".join(f"- {escape_markdown(n)}" for n in (*_references(tables), *notes))
    return "\n\n".join([*blocks, listed.replace("+-", "±")]) + "\n"


def escape_cell(words: object) -> str:
    """Return plain words that no spreadsheet takes for a formula."""
    shown = plain(words)
    return f"'{shown}" if shown.lstrip()[:1] in tuple("=+-@") else shown


def to_csv(tables: list[Table], notes: list[str]) -> str:
    """Return CSV: one line a number, unrounded, empty where missing; without notes.

    What the lines are of, up to the column, with measure and shots, is in no other line.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    values = [value for table in tables for row in table.rows for value in row.values]
    has_intervals = any(value and value.interval for value in values)
    writer.writerow(
        ["protocol", "table", "method", "rule", "backbone", "column", "mean", "std", "seeds"]
        + ["source", *(["low", "high"] if has_intervals else []), "measure", "shots"]
    )
    for table in tables:
        subject = (not table.panel and table.subject) or table.title.partition(": ")[2]
        for row in table.rows:
            start = [table.protocol, subject, row.name, row.rule, row.method.backbone]
            shots = row.method.shots
            end = [escape_cell(table.measure), "all" if shots == ALL_IMAGES else shots]
            for column, value in zip(table.columns, row.values, strict=True):
                figures: list[object] = ["", "", 0]
                if value:
                    std = "" if value.std is None else value.std
                    figures = [value.number, std, "" if row.published else value.n]
                names = [escape_cell(name) for name in (*start, column.name)]
                bounds: list[object] = []
                if has_intervals:
                    bounds = list((value and value.interval) or ("", ""))
                writer.writerow([*names, *figures, escape_cell(row.published), *bounds, *end])
    return out.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
}  # fmt: skip


def escape_latex(words: object) -> str:
    """Return plain words as LaTeX."""
    escaped = re.sub(r'[\\&%$#_{}~^<>|"]', lambda match: _LATEX[match.group()], plain(words))
    # What follows the end of a row must not look like its options.
    escaped = re.sub(r"^(?=\s*[\[*])", "{}", escaped)
    return escaped.replace("+-", r"$\pm$")


def latex(tables: list[Table], notes: list[str]) -> str:
    r"""Return LaTeX for ``\usepackage{booktabs}``: a table each, and one grid of all panels.

    Bold is what `anprompt.results.marks` says. Grids underline the second as well.
    """
    comments = [r"% needs \usepackage{booktabs}", *(f"% {plain(note)}" for note in notes)]
    blocks = ["\n".join(comments)]
    title = ""
    for key, own in itertools.groupby(tables, lambda t: (t.protocol, bool(t.panel), t.subject)):
        panels = list(own)
        if key[1]:
            blocks.append(_latex_table(panels, f"{panels[0].title.partition(':')[0]}"))
            continue
        for table in panels:
            title = table.title or f"{title} ({table.measure})"
            blocks.append(_latex_table([table], title))
    return "\n\n".join(blocks) + "\n"


def _latex_table(panels: Sequence[Table], title: str) -> str:
    """Return one LaTeX table of tables with the same columns, each under its name."""
    first = panels[0]
    rules = has_rules(panels)
    is_grid = bool(first.panel)
    header = _header(first, rules)
    lines: list[str] = []
    said: dict[str, None] = {}
    for table in panels:
        found = marks(table)
        said |= dict.fromkeys(filter(None, [found.rule]))
        if len(panels) > 1:
            lines += [r"\midrule"] if lines else []
            heading = rf"\multicolumn{{{len(header)}}}{{l}}{{\emph{{{escape_latex(table.panel)}}}}}"
            lines += [rf"{heading} \\"]
        for i, row in enumerate(table.rows):
            lines += [r"\midrule"] if row.is_difference and is_grid else []
            values = [
                _math(value, column, (i, j) in found.best, is_grid and (i, j) in found.second)
                for j, (value, column) in enumerate(
                    zip(row.values, columns_of(table, row), strict=True)
                )
            ]
            lines.append(" & ".join([*map(escape_latex, _start(row, rules)), *values]) + r" \\")
    numbers = [value for table in panels for row in table.rows for value in row.values if value]
    caption = [f"{escape_latex(title)}.", f"{escape_latex(first.measure)}."]
    has_deviation = first.columns[0].has_deviation
    if has_deviation and any(value.std is not None and not value.interval for value in numbers):
        caption.append(f"$\\pm$: standard deviation over {first.counted}.")
    caption += map(escape_latex, said)
    if said and is_grid:
        caption.append("Underlined: second, or the first where it is not bold.")
    listed = [note for table in panels for note in (*table.notes, *table.references)]
    caption += [escape_latex(note) for note in dict.fromkeys(listed)]
    label = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    environment = "table*" if is_grid else "table"
    return "\n".join(
        [
            rf"\begin{{{environment}}}[t]",
            r"\centering",
            *([r"\setlength{\tabcolsep}{3pt}\footnotesize"] if is_grid else []),
            rf"\caption{{{' '.join(caption)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{'l' * (1 + rules)}{'r' * (len(header) - 1 - rules)}}}",
            r"\toprule",
            " & ".join(map(escape_latex, header)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\end{{{environment}}}",
        ]
    )


def _math(value: Value | None, column: Column, is_best: bool, is_second: bool = False) -> str:
    if value is None:
        return MISSING
    number = number_text(value.number, column)
    shown = rf"\mathbf{{{number}}}" if is_best else number
    shown = rf"\underline{{{shown}}}" if is_second else shown
    if value.interval:
        low, high = (number_text(bound, column) for bound in value.interval)
        return rf"${shown}$ \,[${low}$, ${high}$]{'*' if value.is_separated else ''}"
    if value.std is None or not column.has_deviation:
        return f"${shown}$"
    return rf"${shown} \pm {value.std:.{column.digits}f}$"


def to_json(tables: list[Table], notes: list[str]) -> str:
    """Return everything, each number with its seeds and its source."""
    content = {"tables": [table.as_dict() for table in tables], "notes": notes}
    return json.dumps(content, indent=1) + "\n"


RENDERERS: dict[str, Callable[[list[Table], list[str]], str]] = {
    "text": text,
    "markdown": markdown,
    "csv": to_csv,
    "latex": latex,
    "json": to_json,
}
