"""How a training step's time and memory grow with the number of classes; a table and a plot.

The plain path stops growing where it would exceed ``--plain-up-to`` classes: it takes 15 GB at 500
on a ViT-B/16.

    python benchmarks/scaling.py --trainer CoOp --counts 10,50,200,500,1000 --plain-up-to 200 \\
        --plot scaling.svg
"""

import math
import sys
from pathlib import Path

if str(Path(__file__).resolve().parent.parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure  # noqa: E402
from benchmarks.step_time import measure_steps  # noqa: E402

COLOURS = {"fast": "#1b6ca8", "plain": "#b5651d"}


def plot_svg(series: dict[str, list[tuple[float, float]]], title: str) -> str:
    """Lines over logarithmic axes: classes across, seconds a step up.

    Args:
        series: points by path; all numbers above 0.
    """
    width, height, left, low = 640, 420, 70, 60
    xs = [math.log10(x) for points in series.values() for x, _ in points]
    ys = [math.log10(y) for points in series.values() for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x0) / ((x1 - x0) or 1)
        up = (math.log10(y) - y0) / ((y1 - y0) or 1)
        return left + across * (width - left - 30), height - low - up * (height - low - 50)

    text = '<text x="{:.0f}" y="{:.0f}" fill="{}" text-anchor="{}">{}</text>'.format
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(width / 2, 24, "black", "middle", title),
        text(width / 2, height - 12, "black", "middle", "classes"),
        text(12, 46, "black", "start", "seconds a step"),
    ]
    for x in sorted({x for points in series.values() for x, _ in points}):
        parts.append(text(at(x, 10**y0)[0], height - low + 22, "black", "middle", f"{x:g}"))
    for i, (name, points) in enumerate(series.items()):
        colour = COLOURS[name]
        line = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for seen in points:
            x, y = at(*seen)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
            parts.append(text(x, y - 8, colour, "middle", f"{seen[1]:.2g}"))
        parts.append(text(left + 10, 70 + 18 * i, colour, "start", name))
    return "\n".join([*parts, "</svg>"])


def main(arguments: list[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--counts", default="10,50,200,500,1000", help="of classes, by commas")
    parser.add_argument("--plain-up-to", type=int, default=200, help="classes (default 200)")
    parser.add_argument("--rounds", type=int, default=3, help="steps that are timed, per path")
    parser.add_argument("--skip-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--plot", help="write the plot to this SVG file")
    args = parser.parse_args(arguments)
    rows, series = [], {}
    with measure.scratch(args.scratch) as folder:
        for classes in map(int, args.counts.split(",")):
            work = measure.workload(args).with_(classes=classes)
            paths = measure.PATHS if classes <= args.plain_up_to else ("fast",)
            for row in measure_steps(work, folder, args.rounds, paths, memory=not args.skip_memory)[
                "rows"
            ]:
                rows.append(row)
                series.setdefault(row["path"], []).append((classes, row["s/step"]))
    measure.report(rows, {"workload": measure.workload(args).as_dict()}, args.json)
    if args.plot:
        name = f"{args.trainer}, {args.backbone}, batch {args.batch}, {args.device}"
        Path(args.plot).write_text(plot_svg(series, name) + "\n")


if __name__ == "__main__":
    main()
