"""Charts: one drawing, as SVG that takes the page's colours; PNG, PDF, SVG and CSV for papers."""

import csv
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anprompt.results.render import escape_cell
from common.text import plain

# Inches; matplotlib counts 72 to an inch in SVG, so one panel is 331 units wide: about a phone.
WIDTH, HEIGHT = 4.6, 3.3
COLUMN = 3.3  # inches: a column of the usual two-column papers
PAGE_POINTS, PAPER_POINTS = 12.5, 7.5  # size of letters; the page shows no text below 12 pixels

# Colour-blind friendly (after Okabe and Ito), told apart by marker and dash as well.
SERIES_LIGHT = (
    "#c2410c", "#0072b2", "#00805c", "#b0418a", "#8a6d00", "#2f8fc4", "#7b3fb5", "#5c5c5c",
    "#8f4a20", "#007a80", "#a3123a", "#5c7a1f",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d")
# The same marks, 10 units wide and high, for the page's legends.
MARKER_PATHS = (
    "M5 1a4 4 0 1 0 .01 0z", "M1.5 1.5h7v7h-7z", "M5 1l4.3 8H.7z", "M5 .5L9.5 5 5 9.5.5 5z",
    "M5 9L.7 1h8.6z", "M3.5 1h3v2.5H9v3H6.5V9h-3V6.5H1v-3h2.5z",
    "M2.2.8L5 3.6 7.8.8l1.4 1.4L6.4 5l2.8 2.8-1.4 1.4L5 6.4 2.2 9.2.8 7.8 3.6 5 .8 2.2z",
    "M1 5l8-4.3v8.6z", "M9 5L1 9.3V.7z", "M5 .8l4.2 3-1.6 5H2.4l-1.6-5z",
    "M5 .6l3.8 2.2v4.4L5 9.4 1.2 7.2V2.8z", "M5 .5L8 5 5 9.5 2 5z",
)  # fmt: skip
DASH_ARRAYS = ("", "6 3", "6 2 1.5 2", "1.5 2", "7 2 1.5 2 1.5 2")
DASHES = ("-", "--", "-.", (0, (1, 1.2)), (0, (5, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Theme:
    """Colours of a drawing: text, secondary text, lines behind, better, worse, series by number."""

    ink: str
    muted: str
    grid: str
    good: str
    bad: str
    series: Callable[[int], str]


PAPER = Theme(
    "#1b1f24", "#5b6570", "#dde1e6", "#00714f", "#a3123a",
    lambda i: SERIES_LIGHT[i % len(SERIES_LIGHT)],
)  # fmt: skip
# Stand-ins that `to_svg` turns into the page's CSS variables.
PAGE = Theme(
    "#010203", "#010204", "#010205", "#010206", "#010207",
    lambda i: f"#0a0b{i % len(SERIES_LIGHT):02x}",
)  # fmt: skip
_VARIABLES = {
    PAGE.ink: "var(--ink)", PAGE.muted: "var(--muted)", PAGE.grid: "var(--line)",
    PAGE.good: "var(--good)", PAGE.bad: "var(--bad)",
}  # fmt: skip


@dataclass
class Chart:
    """A figure of the report.

    Attributes:
        name: file name without suffix, and its id on the page.
        title: what it shows.
        caption: how to read it.
        columns, rows: its data, as the CSV file has them; columns named "source" or
            "..._source" hold expressions (see `anprompt.results.value`), as JSON.
        draw: puts it into axes. Artists whose gid is "series-N" vanish with method N.
        points: (x, y, text, gid) in the axes' units: what the page says where one points.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: list[tuple]
    draw: Callable[[Axes, Theme], None]
    size: tuple[float, float] = (WIDTH, HEIGHT)
    points: Sequence[tuple[float, float, str, str]] = ()


def series_style(number: int, is_highlight: bool, is_baseline: bool) -> dict[str, Any]:
    """Return marker, dash and weight of a method's line."""
    return {
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": "-" if is_highlight else DASHES[number % len(DASHES)],
        "linewidth": 2.4 if is_highlight else 1.4,
        "markersize": 6 if is_highlight else 4.8,
        "zorder": 5 if is_highlight else 4 if is_baseline else 3,
    }


def to_svg(chart: Chart) -> str:
    """Return inline SVG: scales with its box, text stays text, colours are the page's."""
    with _settings(chart.name, PAGE_POINTS):
        figure = _figure(chart, PAGE)
        buffer = io.StringIO()
        with warnings.catch_warnings():  # the page's fonts show what matplotlib's lack
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
        points = _points(chart, figure)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"#0a0b([0-9a-f]{2})", lambda m: f"var(--s{int(m[1], 16)})", svg)
    svg = re.sub(r' id="(series-\d+)[^"]*"', r' class="\1"', svg)
    svg = svg.replace("</svg>", f"{points}</svg>")
    # Names of groups repeat from figure to figure; those that something refers to do not.
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if f"#{m[1]}" in svg else "", svg)
    label = escape(plain(f"{chart.title}. {chart.caption}"), quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def _points(chart: Chart, figure: Figure) -> str:
    """Return circles that say what is at the chart's points; the first is in Tab's order."""
    height = figure.get_size_inches()[1] * 72
    circles = []
    for i, (x, y, told, gid) in enumerate(chart.points):
        across, up = figure.axes[0].transData.transform((x, y)) * 72 / figure.dpi
        label = escape(plain(told), quote=True)
        circles.append(
            f'<circle class="point {gid}" cx="{across:.1f}" cy="{height - up:.1f}" r="8" '
            f'role="img" tabindex="{-1 if i else 0}" aria-label="{label}" data-tip="{label}"/>'
        )
    return "".join(circles)


_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def to_file(chart: Chart, form: str, width: float = COLUMN) -> bytes:
    """Return the chart in light colours: png with 300 dots an inch, pdf or svg.

    Args:
        width: in inches, that of a column of text, so that letters have the size of a caption's.
    """
    with _settings(chart.name, PAPER_POINTS):
        height = chart.size[1] * width / chart.size[0]
        figure = _figure(chart, PAPER, (width, max(height, 0.6 * chart.size[1])))
        if form == "png":  # beside a text, the caption says it
            figure.suptitle(chart.title, fontsize=PAPER_POINTS + 1, color=PAPER.ink)
        # The page has one legend for several figures; a picture by itself needs its own.
        axes = figure.axes[0]
        handles, labels = axes.get_legend_handles_labels()
        if labels and axes.get_legend() is None:
            figure.legend(
                handles, labels, loc="outside lower center", ncols=min(len(labels), 3),
                frameon=False, fontsize=PAPER_POINTS, labelcolor=PAPER.ink,
            )  # fmt: skip
        buffer = io.BytesIO()
        metadata = {"pdf": {"CreationDate": None}, "svg": _NO_METADATA}.get(form)
        figure.savefig(buffer, format=form, dpi=300, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def to_csv(chart: Chart) -> str:
    """Return the chart's data, unrounded."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in (chart.columns, *chart.rows):
        writer.writerow([escape_cell(cell) if isinstance(cell, str) else cell for cell in row])
    return buffer.getvalue()


def _settings(name: str, points: float) -> Any:
    # The salt makes ids inside the SVG the chart's own, and the same every time.
    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": name,
            "pdf.fonttype": 42,  # letters stay letters: some venues refuse type 3
            "font.size": points,
            "axes.titlesize": points + 1,
            "axes.labelsize": points,
            "xtick.labelsize": points,
            "ytick.labelsize": points,
            "text.parse_math": False,  # names may have dollars in them
        }
    )


def _figure(chart: Chart, theme: Theme, size: tuple[float, float] | None = None) -> Figure:
    figure = Figure(figsize=size or chart.size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.grid)
    axes.tick_params(colors=theme.muted, length=3, color=theme.grid)
    axes.grid(color=theme.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    chart.draw(axes, theme)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.muted)
    axes.title.set_color(theme.ink)
    return figure
