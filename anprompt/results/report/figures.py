"""The report's figures, each with its data."""

import json
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from anprompt.results.noise.compare import Comparison
from anprompt.results.report.charts import HEIGHT, MARKERS, WIDTH, Chart, Theme, series_style
from anprompt.results.report.data import Case, Data, per_class
from anprompt.results.table import Table
from anprompt.results.value import Value, harmonic_mean
from common.text import plain

MOST_CLASSES = 30  # in one figure: those that changed most
GROUP_NAMES = {"text": "text noise", "image": "image noise", "both": "text and image noise"}


def slug(*parts: str) -> str:
    """Return a file name and id."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def source(value: Value) -> str:
    """Return a value's source as the CSV files have it."""
    return json.dumps(value.source, ensure_ascii=False)


class Styles:
    """One look per method, the same in every figure; methods go by their names."""

    def __init__(self, data: Data):
        self._trainers = {method.name: method.trainer for method in data.methods}
        self._data = data
        # The highlighted method gets the first, strongest colour.
        order = sorted(self._trainers, key=lambda name: not self.is_highlight(name))
        self._number = {name: i for i, name in enumerate(order)}

    def place(self, name: str) -> int:
        """Return where a method stands in the fixed order of methods."""
        return list(self._trainers).index(name)

    def number(self, name: str) -> int | None:
        """Return which colour a method has; None for what is none of the methods."""
        return self._number.get(name)

    def is_highlight(self, name: str) -> bool:
        """Return whether a method is drawn in front."""
        return self._trainers.get(name) == self._data.highlight

    def is_baseline(self, name: str) -> bool:
        """Return whether others are compared with a method."""
        return self._trainers.get(name) == self._data.baseline

    def colour(self, name: str, theme: Theme) -> str:
        """Return a method's colour."""
        return theme.series(self._number[name])

    def line(self, name: str) -> dict:
        """Return marker, dash and weight of a method's line."""
        style = series_style(self._number[name], self.is_highlight(name), self.is_baseline(name))
        return {**style, "gid": self.gid(name)}

    def gid(self, name: str) -> str:
        """Return what a method's artists are called: they vanish where it is switched off."""
        return f"series-{self.place(name)}"

    def marker(self, name: str) -> str:
        """Return a method's mark."""
        return MARKERS[self._number[name] % len(MARKERS)]


MOST_POINTS = 12  # of a line that say their value


def points_of(
    lines: dict[str, dict[int, Value]], styles: Styles, what: str, is_share: bool = False
) -> list[tuple[float, float, str, str]]:
    """Return points of lines, evenly chosen where they are many; ``is_share``: x in percent."""
    found = []
    for name, curve in lines.items():
        gid = styles.gid(name) if styles.number(name) is not None else ""
        every = -(-len(curve) // MOST_POINTS)
        for x, value in list(curve.items())[::-every][::-1]:
            deviation = "" if value.std is None else f" ± {value.std:.2f}"
            place = 100 * x / max(curve) if is_share else x
            told = f"{name}, {what} {x}: {value.number:.2f}{deviation}"
            found.append((place, value.number, told, gid))
    return found


def rows_of(lines: dict[str, dict[int, Value]]) -> list[tuple]:
    """Return curves as rows of a CSV file: method, place, mean, deviation, source."""
    return [
        (method, x, value.number, value.std, source(value))
        for method, curve in lines.items()
        for x, value in curve.items()
    ]


def base_against_new(table: Table, styles: Styles) -> Chart | None:
    """Return each method's mean on base and new classes, over lines of equal harmonic mean."""
    points = [
        (row.name, base, new)
        for row in table.rows
        if row.is_protocol and (base := row.values[0]) and (new := row.values[1])
    ]
    if not points:
        return None
    subject = table.subject or f"average of {len(table.averaged)} data sets"

    def draw(axes: Axes, theme: Theme) -> None:
        x_low, x_high = _range([base for _, base, _ in points])
        y_low, y_high = _range([new for _, _, new in points])
        _equal_hm_lines(axes, theme, (x_low, x_high), (y_low, y_high))
        for name, base, new in points:
            axes.errorbar(
                base.number, new.number, xerr=base.std, yerr=new.std, elinewidth=0.9, label=name,
                gid=styles.gid(name),
                color=styles.colour(name, theme), marker=styles.marker(name),
                markersize=9 if styles.is_highlight(name) else 7, linestyle="none", zorder=4,
            )  # fmt: skip
        axes.set(xlim=(x_low, x_high), ylim=(y_low, y_high))
        axes.set_xlabel("base classes, accuracy %")
        axes.set_ylabel("new classes, accuracy %")

    return Chart(
        name=slug("base-new", table.subject),
        title=f"{subject}: base against new classes",
        caption=(
            "Up and right is better; the axes do not start at 0. Along a grey line the harmonic "
            "mean (HM) is the same. Bars: standard deviation over seeds."
        ),
        columns=("method", "base_mean", "base_std", "new_mean", "new_std", "base_source",
                 "new_source"),
        rows=[(name, base.number, base.std, new.number, new.std, source(base), source(new))
              for name, base, new in points],
        draw=draw,
        points=[
            (base.number, new.number, f"{name}: base {base.number:.2f}, new {new.number:.2f}",
             styles.gid(name))
            for name, base, new in points
        ],
    )  # fmt: skip


def _range(numbers: Sequence[Value]) -> tuple[float, float]:
    low = min(n.number - (n.std or 0) for n in numbers)
    high = max(n.number + (n.std or 0) for n in numbers)
    margin = max(0.12 * (high - low), 1.5)
    return max(0.0, low - margin), min(100.0, high + margin)


def _equal_hm_lines(
    axes: Axes, theme: Theme, x_range: tuple[float, float], y_range: tuple[float, float]
) -> None:
    corners = [harmonic_mean(x_range[i], y_range[i]) for i in (0, 1)]
    step = next((s for s in (1, 2, 5, 10, 20) if (corners[1] - corners[0]) / s <= 6), 20)
    x = np.linspace(max(x_range[0], 1e-3), x_range[1], 200)
    for hm in np.arange(np.ceil(corners[0] / step) * step, corners[1], step):
        with np.errstate(divide="ignore", invalid="ignore"):
            y = hm * x / (2 * x - hm)
        inside = (x > hm / 2) & (y >= y_range[0]) & (y <= y_range[1])
        if inside.sum() < 2:
            continue
        axes.plot(x[inside], y[inside], color=theme.grid, linewidth=0.9, zorder=1)
        first = np.flatnonzero(inside)[0]
        if x[first] > x_range[0] + 0.88 * (x_range[1] - x_range[0]):
            continue  # the label would leave the figure
        axes.annotate(
            f"HM {hm:g}", (x[first], min(y[first], y_range[1])), color=theme.muted,
            va="top", xytext=(2, -2), textcoords="offset points", zorder=1,
        )  # fmt: skip


def accuracy_by_severity(
    comparison: Comparison, styles: Styles, group: str, title: str
) -> Chart | None:
    """Return accuracy under one group of noise, from clean (0) to severity 5."""
    rows = sorted(comparison.rows, key=lambda row: styles.place(row.method.name))
    lines = {row.method.name: curve for row in rows if (curve := row.by_severity(group))}
    if not lines:
        return None
    # One range for all groups, or noise of text and of images would look alike.
    everything = [
        value
        for row in comparison.rows
        for each in GROUP_NAMES
        for value in row.by_severity(each).values()
    ]
    low, high = _range(everything)
    chance = 100 / max(len(comparison.rows[0].evaluations[0].part["classnames"]), 1)
    groups = [each for each in GROUP_NAMES if any(row.by_severity(each) for row in rows)]
    axis = f"All {len(groups)} figures of noise have this axis, which" if groups[1:] else "The axis"

    def draw(axes: Axes, theme: Theme) -> None:
        for method, curve in lines.items():
            x = np.array(list(curve))
            y, spread = (
                np.array(values)
                for values in zip(*((n.number, n.std or 0) for n in curve.values()), strict=True)
            )
            colour = styles.colour(method, theme)
            axes.plot(x, y, color=colour, label=method, **styles.line(method))
            if spread.any():
                axes.fill_between(
                    x, y - spread, y + spread, color=colour, alpha=0.12, linewidth=0,
                    gid=styles.gid(method),
                )  # fmt: skip
        if low < chance:
            axes.axhline(chance, color=theme.muted, linewidth=0.9, linestyle=(0, (1, 2)))
            axes.annotate("chance", (0, chance), color=theme.muted, va="bottom")
        axes.set_xlabel("severity (0: clean)")
        axes.set_ylabel("accuracy %")
        axes.set_ylim(low, high)
        axes.set_xticks(sorted({severity for curve in lines.values() for severity in curve}))

    kinds = sorted(comparison.kinds(group))
    pairs = f"{len(kinds)} pair{'s' * (len(kinds) > 1)} of kinds"
    shown = pairs if group == "both" else ", ".join(kinds)
    return Chart(
        name=slug("severity", title, group),
        title=f"{title}: {GROUP_NAMES[group]}",
        caption=(
            f"Mean over kinds ({shown.replace('_', ' ')}) and noise seeds. Bands: deviation over "
            f"runs. {axis} does not start at 0."
        ),
        columns=("method", "severity", "accuracy_mean", "accuracy_std", "source"),
        rows=rows_of(lines),
        draw=draw,
        points=points_of(lines, styles, "severity"),
    )


def accuracy_by_shots(table: Table, styles: Styles) -> Chart | None:
    """Return accuracy on all classes by images per class; None unless some method has two numbers.

    What learns nothing is the same for any number of images.
    """
    shots = [column.name.split()[0] for column in table.columns]
    ticks = sorted(int(number) for number in shots if number.isdigit() and number != "0")
    lines: dict[str, dict[int, Value]] = {}
    for row in table.rows:
        known = {n: value for n, value in zip(shots, row.values, strict=True) if value}
        curve = {tick: known[str(tick)] for tick in ticks if str(tick) in known}
        if row.is_protocol and (curve or "0" in known):
            lines[row.name] = curve or dict.fromkeys(ticks, known["0"])
    if len(ticks) < 2:
        return None

    def draw(axes: Axes, theme: Theme) -> None:
        for method, curve in lines.items():
            y, spread = ([f(n) for n in curve.values()]
                         for f in (lambda n: n.number, lambda n: n.std))  # fmt: skip
            axes.errorbar(
                list(curve), y, yerr=None if None in spread else spread, elinewidth=0.9,
                color=styles.colour(method, theme), label=method, **styles.line(method),
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("images per class")
        axes.set_ylabel("accuracy %")
        axes.set_ylim(_range([value for curve in lines.values() for value in curve.values()]))

    return Chart(
        name=slug("shots", table.subject),
        title=f"{table.subject}: accuracy by images per class",
        caption="All classes. Bars: deviation over seeds. The axis does not start at 0.",
        columns=("method", "shots", "accuracy_mean", "accuracy_std", "source"),
        rows=rows_of(lines),
        draw=draw,
        points=points_of(lines, styles, "images a class"),
    )


def class_changes(case: Case, subset: str, method: str, baseline: str) -> Chart | None:
    """Return accuracy of each class: the baseline's and the method's, best gain first."""
    before, after = (per_class(case.of(name, subset)) for name in (baseline, method))
    rows = [(name, before[name], after[name]) for name in before if name in after]
    if not rows:
        return None
    number = len(rows)
    rows.sort(key=lambda row: abs(row[2].number - row[1].number), reverse=True)
    rows = sorted(rows[:MOST_CLASSES], key=lambda row: row[2].number - row[1].number)

    def draw(axes: Axes, theme: Theme) -> None:
        for y, (_, old, new) in enumerate(rows):
            better = new.number >= old.number
            colour = theme.good if better else theme.bad
            if old.number == new.number:
                colour = theme.muted
            ends = [old.number, new.number]
            axes.plot(ends, [y, y], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot(old.number, y, "o", color=theme.muted, markersize=4)
            axes.plot(new.number, y, "^" if better else "v", color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), [_short(row[0]) for row in rows])
        axes.set_ylim(-0.8, len(rows) - 0.2)
        axes.set_xlim(-3, 103)
        axes.set_xlabel("accuracy %")

    note = f" The {MOST_CLASSES} that changed most of {number}." if number > MOST_CLASSES else ""
    return Chart(
        name=slug("classes", case.title, subset, method),
        title=f"{case.title}, {subset} classes: {method} against {baseline}",
        caption=(
            f"Dot: {baseline}. Triangle: {method}, pointing up where better, down where worse. "
            f"Means over seeds.{note}"
        ),
        columns=("class", baseline, method, f"{baseline}_source", f"{method}_source"),
        rows=[
            (name, old.number, new.number, source(old), source(new))
            for name, old, new in reversed(rows)
        ],
        draw=draw,
        points=[
            (new.number, y, f"{name}: {baseline} {old.number:.1f}, {method} {new.number:.1f}", "")
            for y, (name, old, new) in enumerate(rows)
        ],
        size=(WIDTH, max(HEIGHT, 0.9 + 0.17 * len(rows))),
    )


def _short(name: str, length: int = 26) -> str:
    name = plain(name)
    return name if len(name) <= length else name[: length - 1] + "…"


def ablation_changes(
    title: str, name: str, rows: Sequence[tuple[str, Value, Value, Value]]
) -> Chart:
    """Return differences to the whole method, in percentage points: base, new, harmonic mean."""
    names = [row[0] for row in rows]

    def draw(axes: Axes, theme: Theme) -> None:
        y = np.arange(len(rows))[::-1]
        for i, (label, marker, size) in enumerate(
            (("base", "s", 4), ("new", "^", 5), ("HM", "D", 6))
        ):
            filled = label == "HM"
            axes.plot(
                [changes[i].number for _, *changes in rows], y, marker, label=label,
                markersize=size,
                color=theme.ink if filled else theme.muted,
                markerfacecolor=theme.ink if filled else "none",
            )  # fmt: skip
        axes.axvline(0, color=theme.muted, linewidth=0.9)
        axes.set_yticks(range(len(names)), names[::-1])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_xlabel("points from the whole method")
        axes.legend(
            frameon=False, labelcolor=theme.muted, loc="lower center", ncols=3,
            bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2,
        )  # fmt: skip

    return Chart(
        name=name,
        title=title,
        caption="Left of the line: the change cost accuracy.",
        columns=("ablation", "base_change", "new_change", "hm_change", "base_source", "new_source",
                 "hm_source"),
        rows=[(row[0], *(n.number for n in row[1:]), *map(source, row[1:])) for row in rows],
        draw=draw,
        size=(WIDTH, max(2.2, 1.1 + 0.2 * len(rows))),
    )  # fmt: skip
