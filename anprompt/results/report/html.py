"""HTML by hand: escaping, tables whose cells name their sources, figures."""

import json
from collections.abc import Iterable, Sequence
from html import escape

from anprompt.results.report.charts import DASH_ARRAYS, MARKER_PATHS, Chart, to_svg
from anprompt.results.report.numbers import Number

MISSING = '<td class="missing">missing</td>'


def text(value: object) -> str:
    """``value`` as text, escaped."""
    return escape(str(value), quote=True)


def element(tag: str, content: str, **attributes: str) -> str:
    """An element with content that is HTML already; ``class_`` stands for class."""
    shown = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{shown}>{content}</{tag}>"


def _attributes(number: Number) -> str:
    """What tells the page's script and other programs where a number comes from."""

    def json_attribute(value: object) -> str:
        content = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        for character, entity in (("&", "&amp;"), ("'", "&#39;"), ("<", "&lt;"), (">", "&gt;")):
            content = content.replace(character, entity)
        return f"'{content}'"

    values = f" data-values={json_attribute(number.values)}" if len(number.values) > 1 else ""
    return f'data-value="{number.value:.10g}" data-source={json_attribute(number.source)}{values}'


def _shown(number: Number, digits: int, unit: str, signed: bool) -> str:
    value = round(number.value, digits) + 0.0  # no minus before a zero
    return f"{value:{'+' if signed and value else ''},.{digits}f}{unit}".replace("-", "−")


def number_cell(
    number: Number | None,
    digits: int = 1,
    is_best: bool = False,
    unit: str = "",
    signed: bool = False,
    style: str = "",
) -> str:
    """A table cell: the value, its deviation over runs, and where it comes from."""
    if number is None:
        return MISSING
    shown = _shown(number, digits, unit, signed)
    if is_best:
        shown = f"<strong>{shown}</strong>"
    if number.std is not None:
        shown += f' <span class="std">± {number.std:,.{digits}f}</span>'
    style = f' style="{style}"' if style else ""
    return f'<td class="number" {_attributes(number)}{style}>{shown}</td>'


def number_text(number: Number, digits: int = 1, unit: str = "", signed: bool = False) -> str:
    """A number within a sentence, which knows where it comes from as well."""
    shown = _shown(number, digits, unit, signed)
    return f'<span class="number" {_attributes(number)}>{shown}</span>'


def counts_cell(*numbers: Number) -> str:
    """Whole numbers; several that differ with a stroke between them."""
    if len({number.value for number in numbers}) == 1:
        numbers = numbers[:1]
    return element("td", " / ".join(number_text(number, 0) for number in numbers))


def table(
    headers: Sequence[str],
    rows: Iterable[tuple[Sequence[str], bool]],
    caption: str = "",
    class_: str = "",
) -> str:
    """A table that scrolls sideways in a box of its own.

    Args:
        headers: text; a "|" in front aligns left.
        rows: cells that are HTML already, and whether the row is highlighted.
        caption: text.
    """
    head = "".join(
        element(
            "th",
            text(name.lstrip("|")),
            class_="left" if name.startswith("|") else None,
            scope="col",
        )  # fmt: skip
        for name in headers
    )
    body = "".join(
        element("tr", "".join(cells), class_="highlight" if highlighted else None)
        for cells, highlighted in rows
    )
    # The title stands above the box that scrolls, or a phone would show half of it.
    shown = element("div", text(caption), class_="caption") if caption else ""
    inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    table_ = element("table", inner, class_=class_ or None, aria_label=caption or None)
    # Focusable, so that it can be scrolled with the keyboard too.
    return f'<div class="box">{shown}<div class="scroll" tabindex="0">{table_}</div></div>'


def name_cell(name: str, swatch: int | None = None, note: str = "") -> str:
    """A row's name, with the colour that figures give it."""
    mark = "" if swatch is None else f'<i class="swatch" style="background:var(--s{swatch})"></i>'
    extra = f' <span class="std">{text(note)}</span>' if note else ""
    return element("th", f"{mark}{text(name)}{extra}", scope="row")


def mark(number: int, is_highlight: bool) -> str:
    """A legend's line and marker, as `charts.series_style` draws them."""
    dash = "" if is_highlight else DASH_ARRAYS[number % len(DASH_ARRAYS)]
    colour = f"var(--s{number % 12})"
    path = MARKER_PATHS[number % len(MARKER_PATHS)]
    return (
        f'<svg class="mark" viewBox="0 0 26 10" aria-hidden="true"><path d="M0 5h26" '
        f'stroke="{colour}" stroke-width="{2.4 if is_highlight else 1.6}" '
        f'stroke-dasharray="{dash}"/><path transform="translate(8 0)" d="{path}" '
        f'fill="{colour}"/></svg>'
    )


def cell(value: object) -> str:
    """A cell of plain text."""
    return element("td", text(value))


def figure(chart: Chart | None) -> str:
    """A figure with its caption; nothing for None."""
    if chart is None:
        return ""
    caption = f"<b>{text(chart.title)}.</b> {text(chart.caption)}"
    return element("figure", to_svg(chart) + element("figcaption", caption), id=chart.name)


def figures(charts: Iterable[Chart | None], class_: str = "figures") -> str:
    """Figures side by side where there is room."""
    shown = "".join(figure(chart) for chart in charts)
    return element("div", shown, class_=class_) if shown else ""


def section(id_: str, title: str, *content: str) -> str:
    """A section of the page; nothing without content."""
    shown = "".join(content)
    return element("section", f"<h2>{text(title)}</h2>{shown}", id=id_) if shown else ""


def paragraph(value: str) -> str:
    return element("p", text(value))


def findings(items: Sequence[str]) -> str:
    """What a section says, as sentences that are HTML already; nothing for none."""
    shown = "".join(f"<li>{item}</li>" for item in items)
    return f'<div class="says"><b>What this says</b><ul>{shown}</ul></div>' if items else ""


def details(summary: str, content: str) -> str:
    """Folded content; unfolds in print."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>" if content else ""
