"""The report's figures, each with its data."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from tools.collect import harmonic_mean
from tools.reporting.charts import HEIGHT, MARKERS, WIDTH, Chart, Theme, dodged, series_style
from tools.reporting.data import (
    Data,
    base_to_new,
    mean_and_spread,
    per_class,
    training_curve,
)
from tools.robust.table import Comparison

MOST_CLASSES = 30  # in one figure: those that changed most
GROUP_NAMES = {"text": "text noise", "image": "image noise", "both": "text and image noise"}


def slug(*parts: str) -> str:
    """A file name and id."""
    text = "-".join(parts).lower()
    return "".join(c if c.isalnum() else "-" for c in text).strip("-")


class Styles:
    """One look per method, the same in every figure."""

    def __init__(self, data: Data):
        self.data = data
        self._number = {method: i for i, method in enumerate(self._order())}

    def _order(self) -> list[str]:
        # The highlighted method gets the first, strongest colour.
        return sorted(self.data.methods, key=lambda name: not self.is_highlight(name))

    def number(self, method: str) -> int:
        return self._number[method]

    def is_highlight(self, method: str) -> bool:
        return method.split(" (")[0] == self.data.highlight

    def line(self, method: str) -> dict:
        trainer = method.split(" (")[0]
        return series_style(
            self.number(method), self.is_highlight(method), trainer == self.data.baseline
        )

    def marker(self, method: str) -> str:
        return MARKERS[self.number(method) % len(MARKERS)]


def base_against_new(data: Data, styles: Styles, dataset: str) -> Chart | None:
    """Each method's mean on base and new classes, over lines of equal harmonic mean."""
    rows = [row for row in base_to_new(data, dataset, all_rules=False) if row.base and row.new]
    if not rows:
        return None
    points = [
        (row.method, row.base.value, row.base.std, row.new.value, row.new.std) for row in rows
    ]

    def draw(axes: Axes, theme: Theme) -> None:
        x, y = ([point[i] for point in points] for i in (1, 3))
        x_low, x_high = _range(x, [p[2] for p in points])
        y_low, y_high = _range(y, [p[4] for p in points])
        _equal_hm_lines(axes, theme, (x_low, x_high), (y_low, y_high))
        for method, base, base_std, new, new_std in points:
            colour = theme.series(styles.number(method))
            axes.errorbar(
                base, new, xerr=base_std, yerr=new_std, color=colour, elinewidth=0.9,
                marker=styles.marker(method), markersize=7 if styles.is_highlight(method) else 5.5,
                zorder=4,
            )  # fmt: skip
        axes.set(xlim=(x_low, x_high), ylim=(y_low, y_high))
        gap = 0.072 * (y_high - y_low)
        for (method, base, *_), place in zip(points, dodged(y, gap), strict=True):
            on_left = base > x_low + 0.62 * (x_high - x_low)
            axes.annotate(
                method, (base, place), xytext=(-8 if on_left else 8, 0),
                textcoords="offset points", va="center", ha="right" if on_left else "left",
                color=theme.series(styles.number(method)), fontsize=9.5,
                fontweight="bold" if styles.is_highlight(method) else "normal", zorder=6,
            )  # fmt: skip
        axes.set_xlabel("base classes, accuracy %")
        axes.set_ylabel("new classes, accuracy %")

    return Chart(
        name=slug("base-new", dataset),
        title=f"{dataset}: base against new classes",
        caption=(
            "Up and right is better. Along a grey line the harmonic mean is the same. Bars: "
            "standard deviation over seeds."
        ),
        columns=("method", "base_mean", "base_std", "new_mean", "new_std"),
        rows=points,
        draw=draw,
    )


def _range(values: Sequence[float], spreads: Sequence[float | None]) -> tuple[float, float]:
    low = min(v - (s or 0) for v, s in zip(values, spreads, strict=True))
    high = max(v + (s or 0) for v, s in zip(values, spreads, strict=True))
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
        last = np.flatnonzero(inside)[0]
        axes.annotate(
            f"HM {hm:g}", (x[last], min(y[last], y_range[1])), color=theme.muted, fontsize=7.5,
            va="top", xytext=(2, -2), textcoords="offset points", zorder=1,
        )  # fmt: skip


def accuracy_by_severity(comparison: Comparison, styles: Styles, group: str) -> Chart | None:
    """Accuracy under one group of noise, from clean (0) to severity 5."""
    rows, lines = [], []
    for row in comparison.rows:
        if not row.values(group, "accuracy"):
            continue
        severities = sorted(set.intersection(*(set(m[group].by_severity) for m in row.means)))
        curve = [(0, *mean_and_spread(row.clean))]
        for severity in severities:
            values = [means[group].by_severity[severity] for means in row.means]
            curve.append((severity, *mean_and_spread(values)))
        lines.append((row.method, curve))
        rows += [(row.method, severity, mean, std) for severity, mean, std in curve]
    if not lines:
        return None

    def draw(axes: Axes, theme: Theme) -> None:
        for method, curve in lines:
            x, y, spread = (np.array(column) for column in zip(*curve, strict=True))
            colour = theme.series(styles.number(method))
            axes.plot(x, y, color=colour, **styles.line(method))
            if spread.any():
                axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.12, linewidth=0)
        axes.set_xlabel("severity (0: clean)")
        axes.set_ylabel("accuracy %")
        axes.set_xticks(sorted({severity for _, curve in lines for severity, *_ in curve}))

    name = comparison.backbone.replace("\\", "/").rpartition("/")[2]
    kinds = sorted({kind for row in comparison.rows for m in row.means if group in m
                    for kind in m[group].kinds})  # fmt: skip
    shown = ", ".join(kinds) if group != "both" else f"{len(kinds)} pairs of kinds"
    return Chart(
        name=slug("severity", comparison.dataset, name, comparison.part, group),
        title=f"{comparison.dataset}, {comparison.part} classes: {GROUP_NAMES[group]}",
        caption=f"Mean over kinds ({shown}) and noise seeds. Bands: deviation over runs.",
        columns=("method", "severity", "accuracy_mean", "accuracy_std"),
        rows=rows,
        draw=draw,
    )


def training_curves(data: Data, styles: Styles, dataset: str, meter: str) -> Chart | None:
    """Loss or training accuracy by epoch, from the logs of trainings."""
    lines, rows = [], []
    for method in data.methods:
        curves = [
            curve[meter]
            for source in data.sources
            if (source.run.dataset, source.method) == (dataset, method)
            and not source.results["config"].get("RUN", {}).get("EVAL_ONLY")
            and meter in (curve := training_curve(source))
        ]
        if not curves:
            continue
        epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
        line = [(epoch, *mean_and_spread([c[epoch] for c in curves])) for epoch in epochs]
        if line:
            lines.append((method, line))
            rows += [(method, *point) for point in line]
    if not lines:
        return None

    def draw(axes: Axes, theme: Theme) -> None:
        for method, line in lines:
            epochs, mean, _ = (np.array(column) for column in zip(*line, strict=True))
            # Methods train for different numbers of epochs: share of the training compares them.
            x = 100 * epochs / epochs[-1]
            style = {**styles.line(method), "markersize": 2.5}
            axes.plot(x, mean, color=theme.series(styles.number(method)), **style)
        axes.set_xlabel("share of the training %")
        axes.set_ylabel({"loss": "loss", "acc": "accuracy on training batches %"}[meter])
        if meter == "loss" and all(point[1] > 0 for _, line in lines for point in line):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.tick_params(which="minor", length=0)

    what = {"loss": "training loss", "acc": "training accuracy"}[meter]
    return Chart(
        name=slug("training", dataset, meter),
        title=f"{dataset}: {what}",
        caption=(
            "Mean of each epoch as logged, over seeds. Losses of different methods contain "
            "different terms: compare their course, not their height."
            if meter == "loss"
            else "Mean of each epoch as logged, over seeds, on augmented images."
        ),
        columns=("method", "epoch", f"{meter}_mean", f"{meter}_std"),
        rows=rows,
        draw=draw,
    )


def class_changes(data: Data, dataset: str, part: str, method: str, baseline: str) -> Chart | None:
    """Accuracy of each class: the baseline's and the method's, those that changed most first."""
    before = per_class(data.of(dataset, part, baseline))
    after = per_class(data.of(dataset, part, method))
    names = [name for name in before if name in after]
    if not names:
        return None
    rows = [(name, before[name].value, after[name].value) for name in names]
    rows.sort(key=lambda row: abs(row[2] - row[1]), reverse=True)
    left_out = max(0, len(rows) - MOST_CLASSES)
    rows = sorted(rows[:MOST_CLASSES], key=lambda row: row[2] - row[1])

    def draw(axes: Axes, theme: Theme) -> None:
        for y, (_, old, new) in enumerate(rows):
            better = new >= old
            colour = theme.series(2 if better else 0)
            axes.plot([old, new], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot(old, y, "o", color=theme.muted, markersize=4)
            axes.plot(new, y, "^" if better else "v", color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), [_short(row[0]) for row in rows], fontsize=8)
        axes.set_ylim(-0.8, len(rows) - 0.2)
        axes.set_xlim(-3, 103)
        axes.set_xlabel("accuracy %")

    note = f" The {MOST_CLASSES} that changed most of {len(names)}." if left_out else ""
    return Chart(
        name=slug("classes", dataset, part, method),
        title=f"{dataset}, {part} classes: {method} against {baseline}",
        caption=(
            f"Dot: {baseline}. Triangle: {method}, up (green) where better, down where worse. "
            f"Means over seeds.{note}"
        ),
        columns=("class", baseline, method),
        rows=[*reversed(rows)],
        draw=draw,
        size=(WIDTH, max(HEIGHT, 0.9 + 0.17 * len(rows))),
    )


def _short(name: str, length: int = 26) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def ablation_changes(
    title: str, name: str, rows: Sequence[tuple[str, float, float, float]], full: str
) -> Chart:
    """Differences to the whole method, in percentage points: base, new, harmonic mean."""
    names = [row[0] for row in rows]

    def draw(axes: Axes, theme: Theme) -> None:
        for i, (label, marker) in enumerate((("base", "s"), ("new", "o"), ("HM", "D"))):
            x = [row[1 + i] for row in rows]
            y = np.arange(len(rows))[::-1]
            axes.plot(x, y, marker, color=theme.series((1, 2, 0)[i]), label=label, markersize=5)
        axes.axvline(0, color=theme.muted, linewidth=0.9)
        axes.set_yticks(range(len(names)), names[::-1], fontsize=7)
        axes.set_xlabel(f"percentage points from {full}")
        axes.legend(frameon=False, fontsize=7, labelcolor=theme.muted, loc="best")

    return Chart(
        name=name,
        title=title,
        caption="Left of the line: the change cost accuracy.",
        columns=("ablation", "base_change", "new_change", "hm_change"),
        rows=list(rows),
        draw=draw,
        size=(WIDTH, max(HEIGHT, 0.9 + 0.18 * len(rows))),
    )
