"""The page on anomaly detection: tables, maps over images, curves."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from PIL import Image

from anprompt.results.anomaly import AnomalyResult, anomaly_tables
from anprompt.results.method import with_names
from anprompt.results.predictions import BAD_ARRAYS
from anprompt.results.render import value_text
from anprompt.results.report.charts import Chart, Theme, series_style, to_svg
from common.errors import UsageError
from common.reading import read_bytes
from common.text import plain

TEMPLATES = Path(__file__).parent / "templates"
SIDE = 112  # pixels of a picture
CUT = 99.9  # percentile of patch scores that is drawn as the highest


@dataclass(frozen=True)
class Case:
    """An image of a test, with pictures as data addresses.

    Attributes:
        kind: "good" or the defect.
        truth: "" where there is no mask.
    """

    path: str
    kind: str
    score: float
    picture: str
    truth: str
    heat: str


@dataclass(frozen=True)
class Shown:
    """What is shown of a run: its cases, best first."""

    title: str
    rule: str
    file: str
    found: list[Case]
    missed: list[Case]
    mistaken: list[Case]


@dataclass(frozen=True)
class Kept:
    """What ``anomaly.npz`` of a run holds."""

    run: AnomalyResult
    arrays: dict[str, np.ndarray]


def read_kept(run: AnomalyResult) -> Kept | None:
    """Return what a run kept; None where it kept nothing.

    Raises:
        UsageError: the file is not the one that the run wrote.
    """
    named = run.results.get("scores")
    if not named:
        return None
    path = run.folder / Path(named["file"]).name
    if not path.is_file():
        return None
    content = read_bytes(path)
    if hashlib.sha256(content).hexdigest() != named["sha256"]:
        raise UsageError(f"{path}: not the file that results.json speaks of; test again")
    with _arrays_of(path), np.load(io.BytesIO(content), allow_pickle=False) as kept:
        found = Kept(run, {name: kept[name] for name in kept.files})
        curve = found.arrays["curve_0"]
        if curve.ndim != 2 or len(curve) < 3 or not np.isfinite(curve).all():
            raise ValueError("a curve of other numbers")
        return found


@contextlib.contextmanager
def _arrays_of(path: Path) -> Iterator[None]:
    """Turn what arrays that no test wrote raise into a ``UsageError`` that names their file."""
    try:
        yield
    except (*BAD_ARRAYS, Image.DecompressionBombError) as error:
        raise UsageError(f"{path}: not the scores of a test ({error}); test again") from error


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return _address(buffer.getvalue(), "png")


def heat_map(picture: Image.Image, grid: np.ndarray, low: float, high: float) -> Image.Image:
    """Return a picture with patch scores (rows, columns) over it, ``low`` dark, ``high`` light."""
    scaled = np.clip((grid.astype(np.float32) - low) / max(high - low, 1e-9), 0, 1)
    smooth = Image.fromarray(scaled).resize(picture.size, Image.Resampling.BICUBIC)
    colours = matplotlib.colormaps["inferno"](np.clip(np.asarray(smooth), 0, 1))[..., :3]
    mixed = 0.35 * np.asarray(picture.convert("L").convert("RGB")) + 0.65 * 255 * colours
    return Image.fromarray(mixed.astype(np.uint8))


def shown_of(kept: Kept, title: str) -> Shown:
    """Return the cases of a run.

    Raises:
        UsageError: its file holds other arrays than a test writes.
    """
    with _arrays_of(kept.run.folder):
        return _shown(kept.run, kept.arrays, title)


def _shown(run: AnomalyResult, arrays: dict[str, np.ndarray], title: str) -> Shown:
    grids, labels = arrays["grid_0"].astype(np.float32), arrays["labels"]
    low, high = (float(np.percentile(grids, q)) for q in (100 - CUT, CUT))
    cases: list[tuple[bool, Case]] = []
    for i, number in enumerate(arrays["cases"].tolist()):
        picture = Image.open(io.BytesIO(arrays[f"picture_{i}"].tobytes())).convert("RGB")
        truth = arrays.get(f"truth_{i}")
        case = Case(
            path=str(arrays["paths"][number]),
            kind=str(arrays["defects"][number]),
            score=float(arrays["scores_0"][number]),
            picture=_address(arrays[f"picture_{i}"].tobytes(), "jpeg"),
            truth="" if truth is None else _address(truth.tobytes(), "png"),
            heat=_png(heat_map(picture, grids[number], low, high)),
        )
        cases.append((bool(labels[number]), case))
    anomalous = sorted((c for is_one, c in cases if is_one), key=lambda case: -case.score)
    half = (len(anomalous) + 1) // 2
    mistaken = sorted((c for is_one, c in cases if not is_one), key=lambda case: -case.score)
    return Shown(
        title, str(arrays["rules"][0]), run.file, anomalous[:half], anomalous[half:][::-1], mistaken
    )


def curve_charts(title: str, name: str, runs: dict[str, Kept]) -> list[Chart]:
    """Return ROC and per-region overlap of pixels, a line a method; none without masks."""
    found = {method: kept.arrays.get("curve_0") for method, kept in runs.items()}
    lines = {m: c for m, c in found.items() if c is not None and c.shape[:1] == (3,) and c.size}
    charts = []
    for kind, row, limit in (("ROC", 1, 1.0), ("PRO", 2, 0.3)):

        def draw(axes: Axes, theme: Theme, row: int = row, limit: float = limit) -> None:
            for number, (method, curve) in enumerate(lines.items()):
                style = series_style(number, False, False) | {"marker": ""}
                axes.plot(curve[0], curve[row], color=theme.series(number), label=method, **style)
            axes.set_xlim(0, limit)
            axes.set_ylim(0, 1.02)
            axes.set_xlabel("false-positive rate of pixels")
            axes.set_ylabel("true-positive rate" if row == 1 else "overlap of regions")
            axes.legend(fontsize=8, frameon=False, labelcolor=theme.ink, loc="lower right")

        rows = [(m, *map(float, point)) for m, c in lines.items() for point in c[[0, row]].T]
        if lines:
            charts.append(
                Chart(
                    f"{kind.lower()}-{name}", f"{kind}, {title}", "One run a method.",
                    ("method", "false_positive_rate", "rate"), rows, draw,
                )
            )  # fmt: skip
    return charts


def render_anomaly(
    runs: Sequence[AnomalyResult], title: str, command: str, notes: Sequence[str] = ()
) -> str:
    """Return the page as one HTML document without outside references.

    Of each method and category the run with the lowest seed is shown in pictures.

    Raises:
        UsageError: a run's file is damaged, or runs cannot share a table.
    """
    names = with_names(run.method for run in runs)
    cells: dict[tuple[str, int, str], dict[str, Kept]] = {}
    for run in sorted(runs, key=lambda run: (run.dataset, run.shots, run.category, run.seed)):
        own = cells.setdefault((run.dataset, run.shots, run.category), {})
        name = names[run.method].name
        if name not in own and (kept := read_kept(run)) is not None:
            own[name] = kept
    parts = []
    for number, ((dataset, shots, category), own) in enumerate(cells.items()):
        where = " ".join(filter(None, (dataset, category)))
        parts.append(
            {
                "title": f"{where}, {shots if shots > 0 else 'all'} normal images",
                "charts": curve_charts(where, str(number), own),
                "shown": [
                    shown_of(kept, f"{name}, seed {kept.run.seed}") for name, kept in own.items()
                ],
            }
        )

    def finalize(value: Any) -> Any:
        return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, finalize=finalize,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals.update(svg=lambda chart: Markup(to_svg(chart)), value_text=value_text)
    return environment.get_template("anomaly.html.j2").render(
        title=title,
        command=command,
        tables=anomaly_tables(runs),
        parts=parts,
        side=SIDE,
        notes=notes,
    )
