"""How trainings went: what runs recorded of each epoch, and figures of it."""

import csv
import math
import re
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator

from anprompt.results.logs import read_lines
from anprompt.results.report.charts import Chart, Theme, series_style
from anprompt.results.report.data import Case
from anprompt.results.report.figures import Styles, points_of, rows_of, slug
from anprompt.results.run import Run
from anprompt.results.value import Value, over_seeds

CURVE = "curve.csv"
NO_TERMS = ("lr", "loss", "acc", "val_accuracy")
EPOCH = re.compile(r"^epoch \[(\d{1,9})/\d+\] batch \[\d+/\d+\] .*$")
METER = re.compile(r"(loss|acc) -?(?:[\d.]+|nan|inf) \((-?\d+(?:\.\d+)?)\)")


def training_curve(run: Run) -> dict[str, dict[int, Value]]:
    """Return what epochs measured, by name, from curve.csv: loss, its terms, acc, ...

    Of runs without it, loss and acc from log.txt: the mean at an epoch's last line. Nothing where
    the log is missing or tells nothing (evaluations).
    """
    curves: dict[str, dict[int, Value]] = {}
    path = run.folder / CURVE
    if path.is_file():
        for epoch, values in read_curve(path).items():
            for name, number in values.items():
                key = f"{path.as_posix()}#epoch {epoch}/{name}"
                curves.setdefault(name, {})[epoch] = Value(number, key)
        return curves
    path = run.folder / "log.txt"
    if not path.is_file():
        return curves
    for line in read_lines(path):
        if match := EPOCH.match(line):
            epoch = int(match[1])
            for name, value in METER.findall(line):
                key = f"{path.as_posix()}#epoch {epoch}/{name}"
                curves.setdefault(name, {})[epoch] = Value(float(value), key)
    return curves


def read_curve(path: Path) -> dict[int, dict[str, float]]:
    """Return a curve.csv's finite numbers by epoch and column.

    A line that is no epoch of numbers is left out: the file shows how training went, and no
    result depends on it.
    """
    found: dict[int, dict[str, float]] = {}
    try:
        rows = list(csv.DictReader(read_lines(path)))
    except csv.Error:
        return found
    for row in rows:
        epoch = row.pop("epoch", "") or ""
        if epoch.isdecimal() and len(epoch) < 9:
            found[int(epoch)] = {
                name: number
                for name, text in row.items()
                if isinstance(text, str) and math.isfinite(number := _number(text))
            }
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def terms_of(case: Case, name: str) -> list[str]:
    """Return the terms of a method's loss that its runs recorded, where there are several."""
    own = [run for method, runs in case.methods.items() if method.name == name for run in runs]
    names = dict.fromkeys(meter for run in own for meter in training_curve(run))
    terms = [meter for meter in names if meter not in NO_TERMS]
    return terms if len(terms) > 1 else []


def curve_of(case: Case, name: str, meter: str) -> dict[int, Value]:
    """Return a method's training curve, mean over runs at the epochs that all of them have."""
    trained = [
        run
        for method, own in case.methods.items()
        for run in own
        if method.name == name and run.results.get("num_trainable")
        if not run.settings.get("RUN.EVAL_ONLY")
    ]
    curves = {run.seed: curve[meter] for run in trained if meter in (curve := training_curve(run))}
    epochs = sorted(set.intersection(*map(set, curves.values()))) if curves else []
    means = {epoch: over_seeds({s: c[epoch] for s, c in curves.items()}) for epoch in epochs}
    return {epoch: value for epoch, value in means.items() if value is not None}


def training_curves(case: Case, styles: Styles, meter: str) -> Chart | None:
    """Return a meter of the logs by share of the training; None without any."""
    lines = {m.name: curve for m in case.methods if (curve := curve_of(case, m.name, meter))}
    if not lines:
        return None

    def draw(axes: Axes, theme: Theme) -> None:
        for method, curve in lines.items():
            # Methods train for different numbers of epochs: share of the training compares them.
            x = 100 * np.array(list(curve)) / max(curve)
            style = {**styles.line(method), "markersize": 4 if len(curve) < 12 else 2.5}
            colour = styles.colour(method, theme)
            axes.plot(x, [n.number for n in curve.values()], color=colour, label=method, **style)
        axes.set_xlabel("share of the training %")
        axes.set_ylabel({"loss": "loss", "acc": "accuracy on training batches %"}[meter])
        axes.set_xlim(0, 103)
        numbers = [value.number for curve in lines.values() for value in curve.values()]
        if meter == "loss" and min(numbers) > 0:
            _log_axis(axes)

    what = {"loss": "training loss", "acc": "training accuracy"}[meter]
    protocol = "" if case.protocol == "base2new" else "all-classes"
    return Chart(
        name=slug("training", case.title, protocol, meter),
        title=f"{case.title}: {what}",
        caption=(
            "Mean of each epoch as logged, over seeds; logarithmic. Losses of different methods "
            "contain different terms: compare their course, not their height."
            if meter == "loss"
            else "Mean of each epoch as logged, over seeds, on augmented images."
        ),
        columns=("method", "epoch", f"{meter}_mean", f"{meter}_std", "source"),
        rows=rows_of(lines),
        draw=draw,
        points=points_of(lines, styles, "epoch", is_share=True),
    )


def loss_terms(case: Case, styles: Styles, name: str) -> Chart | None:
    """Return the terms of a method's loss over its epochs; None where it has one or none."""
    found = {term: curve_of(case, name, term) for term in terms_of(case, name)}
    lines = {term: curve for term, curve in found.items() if curve}
    if len(lines) < 2:
        return None

    def draw(axes: Axes, theme: Theme) -> None:
        for i, (term, curve) in enumerate(lines.items()):
            style = {**series_style(i, False, False), "markersize": 3, "gid": styles.gid(name)}
            values = [value.number for value in curve.values()]
            axes.plot(list(curve), values, color=theme.series(i), label=term, **style)
        axes.set_xlabel("epoch")
        axes.set_ylabel("term of the loss")
        axes.legend(
            frameon=False, labelcolor=theme.muted, loc="lower center", ncols=min(len(lines), 3),
            bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2,
        )  # fmt: skip
        if all(value.number > 0 for curve in lines.values() for value in curve.values()):
            _log_axis(axes)

    protocol = "" if case.protocol == "base2new" else "all-classes"
    return Chart(
        name=slug("terms", case.title, protocol, name),
        title=f"{case.title}: terms of {name}'s loss",
        caption="Mean of each epoch, over seeds, weights included; their sum is the loss.",
        columns=("term", "epoch", "term_mean", "term_std", "source"),
        rows=rows_of(lines),
        draw=draw,
        points=points_of(lines, styles, "epoch"),
    )


def _log_axis(axes: Axes) -> None:
    low, high = axes.get_ylim()
    axes.set_yscale("log")
    subs = (1, 2, 5) if high > 4 * max(low, 1e-9) else tuple(np.arange(1, 10, 0.5))
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
