"""Tables as text, Markdown, CSV, LaTeX and JSON.

Names come from files and folders that anybody may have written: every format escapes what would be
a command or a formula in it, and none has control characters.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence

from tabulate import SEPARATING_LINE, DataRow, Line, TableFormat, tabulate

from anprompt.results.table import Column, Row, Table, best_values
from anprompt.results.value import Value
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
    """Return a value with its deviation."""
    if value is None:
        return MISSING
    text = number_text(value.number, column)
    return text if value.std is None else f"{text} {sign} {value.std:.{column.digits}f}"


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
    pairs = zip(row.values, table.columns, strict=True)
    return [*_start(row, rules), *(value_text(value, column, sign) for value, column in pairs)]


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
    """Return CSV: one line a number, unrounded, empty where missing; without notes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["protocol", "table", "method", "rule", "backbone", "column", "mean", "std", "seeds"]
        + ["source"]
    )
    for table in tables:
        subject = table.subject or table.title.partition(": ")[2]
        for row in table.rows:
            start = [table.protocol, subject, row.name, row.rule, row.method.backbone]
            for column, value in zip(table.columns, row.values, strict=True):
                figures: list[object] = ["", "", 0]
                if value:
                    std = "" if value.std is None else value.std
                    figures = [value.number, std, "" if row.published else value.n]
                names = [escape_cell(name) for name in (*start, column.name)]
                writer.writerow([*names, *figures, escape_cell(row.published)])
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
    r"""Return a LaTeX table each, for ``\usepackage{booktabs}``; bold: best of like rows."""
    rules = has_rules(tables)
    comments = [r"% needs \usepackage{booktabs}", *(f"% {plain(note)}" for note in notes)]
    blocks = ["\n".join(comments)]
    title = ""
    for table in tables:
        title = table.title or f"{title} ({table.measure})"
        header = _header(table, rules)
        best = best_values(table)
        rows = []
        for i, row in enumerate(table.rows):
            pairs = enumerate(zip(row.values, table.columns, strict=True))
            values = [_math(value, column, (i, j) in best) for j, (value, column) in pairs]
            rows.append(" & ".join([*map(escape_latex, _start(row, rules)), *values]) + r" \\")
        caption = [f"{escape_latex(title)}.", f"{escape_latex(table.measure)}."]
        if any(value and value.std is not None for row in table.rows for value in row.values):
            caption.append(f"$\\pm$: standard deviation over {table.counted}.")
        if best:
            caption.append("Bold: best of the rows with the same backbone, shots and seeds.")
        caption += [escape_latex(note) for note in (*table.notes, *table.references)]
        label = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        blocks.append(
            "\n".join(
                [
                    r"\begin{table}[t]",
                    r"\centering",
                    rf"\caption{{{' '.join(caption)}}}",
                    rf"\label{{tab:{label}}}",
                    rf"\begin{{tabular}}{{{'l' * (1 + rules)}{'r' * (len(header) - 1 - rules)}}}",
                    r"\toprule",
                    " & ".join(map(escape_latex, header)) + r" \\",
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(blocks) + "\n"


def _math(value: Value | None, column: Column, is_best: bool) -> str:
    if value is None:
        return MISSING
    number = number_text(value.number, column)
    shown = rf"\mathbf{{{number}}}" if is_best else number
    return f"${shown}$" if value.std is None else rf"${shown} \pm {value.std:.{column.digits}f}$"


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
