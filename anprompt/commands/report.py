"""One HTML file that shows what was run and what came out.

    python -m anprompt report output -o report.html
    python -m anprompt report output output_demo -o report.html --figures figures

Reads every results.json, robustness.json and predictions.npz below the given folders, and training
curves from the curve.csv (or log.txt) beside them. What ``anprompt table`` refuses or leaves out is
refused or left out here. The file needs no network and no other file; it has a light and a dark
view and suits phones and print. Click or tap a number to see the files it comes from. Test images
are shown as small pictures from the folders that --root names, and from nowhere else. --figures DIR
writes each figure as PNG, PDF and SVG of --width inches, and its data as CSV.

exit status: 0 done, 2 bad input (one line says what).
"""

import argparse
import os
import shlex
from pathlib import Path

from common.cli import CommandParser
from common.errors import UsageError
from common.paths import user_cache

HIGHLIGHT, BASELINE = "ANPrompt", "ZeroshotCLIP"


def _inches(text: str) -> float:
    try:
        width = float(text)
    except ValueError:
        width = 0.0
    if not 1 <= width <= 20:
        raise argparse.ArgumentTypeError(f"{text!r}: give inches, 1 to 20")
    return width


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt report",
        description=__doc__,
    )
    add = parser.add_argument
    add("folders", nargs="*", type=Path, default=[Path("output")], metavar="OUTPUT")
    add("-o", "--output", type=Path, default=Path("report.html"), metavar="FILE.html")
    add("--title", default="Prompt learning, what was measured", help="title of the page")
    add("--figures", type=Path, metavar="DIR", help="write each figure as PNG, PDF, SVG and CSV")
    add("--width", type=_inches, default=3.3, help="of --figures, in inches (a column)")
    add(
        "--root",
        action="append",
        type=Path,
        metavar="DIR",
        help="folder that holds the data sets: small test images are shown from there, "
        "at most 300 (default: $DATA and the cache that Shapes is drawn to; may be repeated)",
    )
    add("--highlight", metavar="TRAINER", help=f"drawn in front (default: {HIGHLIGHT})")
    add(
        "--baseline",
        metavar="TRAINER",
        help=f"what classes are compared to (default: {BASELINE})",
    )
    return parser


def main(argv: list[str]) -> int:
    """Run ``anprompt report``; returns the exit status."""
    args = make_parser().parse_args(argv)
    if args.output.suffix not in (".html", ".htm"):
        raise UsageError(f"{args.output}: name a .html file")
    for root in args.root or ():
        if not root.is_dir():
            raise UsageError(f"--root {root}: no such folder")
    # After parsing, so that --help and a misspelt flag are answered at once.
    from anprompt.results.report.charts import to_csv, to_file
    from anprompt.results.report.data import gather
    from anprompt.results.report.page import render
    from common.files import atomic_write
    from common.provenance import provenance

    roots = args.root or [
        *([Path(os.environ["DATA"])] if os.environ.get("DATA") else []),
        user_cache() / "data",
    ]
    baseline, highlight = args.baseline or BASELINE, args.highlight or HIGHLIGHT
    data = gather(args.folders, baseline, highlight, roots)
    measured = {evaluation.method.trainer for evaluation in data.evaluations}
    there = sorted({run.trainer for run in data.runs} | measured)
    for flag, name in (("--baseline", args.baseline), ("--highlight", args.highlight)):
        if name is not None and name not in there:
            raise UsageError(f"{flag} {name}: no run of it; there are: {', '.join(there)}")
    command = shlex.join(["python", "-m", "anprompt", "report", *map(str, args.folders)])
    document, charts = render(data, args.title, provenance(command))
    with atomic_write(str(args.output)) as file:
        file.write(document)
    if args.figures is not None:
        for chart in charts:
            for form in ("png", "pdf", "svg"):
                with atomic_write(str(args.figures / f"{chart.name}.{form}"), "wb") as file:
                    file.write(to_file(chart, form, args.width))
            with atomic_write(str(args.figures / f"{chart.name}.csv")) as file:
                file.write(to_csv(chart))
    print(f"{args.output}: {len(data.runs)} runs, {len(charts)} figures")
    if args.figures is not None:
        print(f"{args.figures}: {len(charts)} PNG, PDF, SVG and CSV files")
    return 0
