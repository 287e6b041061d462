"""Tables as text, Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Callable

from anprompt.results.table import Figure, Line, Table

MISSING = "-"
FORMAT_OF_SUFFIX = {".md": "markdown", ".csv": "csv", ".txt": "text", ".tex": "latex"}


def _header(table: Table, has_rules: bool) -> list[str]:
    return ["method", *(["rule"] if has_rules else []), "seeds", *table.columns]


def _cells(line: Line, has_rules: bool, sign: str = "+-") -> list[str]:
    rule = [line.rule or MISSING] if has_rules else []
    figures = [_text(figure, sign) for figure in line.figures]
    return [line.method, *rule, line.seeds or MISSING, *figures]


def _text(figure: Figure | None, sign: str) -> str:
    if figure is None:
        return MISSING
    return f"{figure.mean:.2f}" + ("" if figure.std is None else f" {sign} {figure.std:.2f}")


def _has_rules(tables: list[Table]) -> bool:
    return any(line.rule for table in tables for line in table.lines)


def _references(tables: list[Table]) -> list[str]:
    return list(dict.fromkeys(reference for table in tables for reference in table.references))


def text(tables: list[Table], notes: list[str]) -> str:
    """Aligned columns for a terminal."""
    has_rules = _has_rules(tables)
    left = 1 + has_rules
    blocks = []
    for table in tables:
        lines = [_header(table, has_rules), *(_cells(line, has_rules) for line in table.lines)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = [
            "  ".join(
                cell.ljust(width) if i < left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in lines
        ]
        rule = "-" * max(map(len, shown))
        blocks.append(
            "\n".join([table.title, rule, shown[0], rule, *shown[1:], rule, *table.notes])
        )
    notes = [*_references(tables), *notes]
    return "\n\n".join(blocks + (["\n".join(notes)] if notes else [])) + "\n"


def markdown(tables: list[Table], notes: list[str]) -> str:
    """A Markdown table each."""
    has_rules = _has_rules(tables)
    blocks = []
    for table in tables:
        header = _header(table, has_rules)
        left = 1 + has_rules
        lines = [header, ["---"] * left + ["---:"] * (len(header) - left)]
        lines += [_cells(line, has_rules, "±") for line in table.lines]
        rows = "\n".join(
            f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in lines
        )
        blocks.append(f"## {table.title}\n\n{rows}")
        if table.notes:
            blocks.append("\n".join(f"- {note}" for note in table.notes))
    listed = "\n".join(f"- {note}" for note in (*_references(tables), *notes))
    return "\n\n".join([*blocks, listed.replace("+-", "±")]) + "\n"


def to_csv(tables: list[Table], notes: list[str]) -> str:
    """One line a figure, unrounded, empty where missing; notes do not fit into CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["protocol", "table", "method", "rule", "backbone", "column", "mean", "std", "seeds"]
        + ["source"]
    )
    for table in tables:
        subject = table.subject or table.title.split(": ", 1)[1]
        for line in table.lines:
            start = [table.protocol, subject, line.method, line.rule, line.backbone]
            for column, figure in zip(table.columns, line.figures, strict=True):
                mean, std, seeds = "", "", 0
                if figure:
                    mean, std = figure.mean, "" if figure.std is None else figure.std
                    seeds = "" if line.source else len(figure.seeds)
                writer.writerow([*start, column, mean, std, seeds, line.source])
    return out.getvalue()


ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def escape(words: str) -> str:
    """Plain words as LaTeX."""
    escaped = re.sub(r"[\\&%$#_{}~^]", lambda match: ESCAPES[match.group()], words)
    return escaped.replace("+-", r"$\pm$")


def latex(tables: list[Table], notes: list[str]) -> str:
    r"""A LaTeX table each, for ``\usepackage{booktabs}``; the best of comparable rows is bold."""
    has_rules = _has_rules(tables)
    blocks = [r"% needs \usepackage{booktabs}" + "\n" + "\n".join(f"% {note}" for note in notes)]
    for table in tables:
        header = _header(table, has_rules)
        left = 1 + has_rules
        best = best_figures(table)
        rows = []
        for i, line in enumerate(table.lines):
            start = [escape(cell) for cell in _cells(line, has_rules)[: left + 1]]
            figures = [_math(f, (i, j) in best) for j, f in enumerate(line.figures)]
            rows.append(" & ".join([*start, *figures]) + r" \\")
        caption = [f"{escape(table.title)}.", r"Accuracy in \%."]
        if any(f and f.std is not None for line in table.lines for f in line.figures):
            caption.append(r"$\pm$: standard deviation over seeds.")
        if best:
            caption.append("Bold: best of the rows with the same backbone, shots and seeds.")
        caption += [escape(note) for note in (*table.notes, *table.references)]
        label = re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-")
        blocks.append(
            "\n".join(
                [
                    r"\begin{table}[t]",
                    r"\centering",
                    rf"\caption{{{' '.join(caption)}}}",
                    rf"\label{{tab:{label}}}",
                    rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(header) - left)}}}",
                    r"\toprule",
                    " & ".join(map(escape, header)) + r" \\",
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(blocks) + "\n"


def _math(figure: Figure | None, is_best: bool) -> str:
    if figure is None:
        return MISSING
    mean = rf"$\mathbf{{{figure.mean:.2f}}}$" if is_best else f"${figure.mean:.2f}$"
    return mean if figure.std is None else mean[:-1] + rf" \pm {figure.std:.2f}$"


def best_figures(table: Table) -> set[tuple[int, int]]:
    """Which figures (line, column) are the best of their column, as printed.

    Only among rows of ours that share backbone, shots and seeds, where there are two at least. A
    method that learns nothing is the same for all shots and seeds.
    """
    best = set()
    for j in range(len(table.columns)):
        ours = [
            (i, line, line.figures[j])
            for i, line in enumerate(table.lines)
            if not line.source and line.figures[j]
        ]
        learners = {(line.backbone, line.shots, f.seeds) for _, line, f in ours if line.learns}
        for key in learners or {(line.backbone, None, None) for _, line, _ in ours}:
            members = [
                (i, round(figure.mean, 2))
                for i, line, figure in ours
                if line.backbone == key[0]
                and (not line.learns or (line.shots, figure.seeds) == key[1:])
            ]
            if len(members) > 1:
                top = max(mean for _, mean in members)
                best |= {(i, j) for i, mean in members if mean == top}
    return best


RENDERERS: dict[str, Callable[[list[Table], list[str]], str]] = {
    "text": text,
    "markdown": markdown,
    "csv": to_csv,
    "latex": latex,
}
