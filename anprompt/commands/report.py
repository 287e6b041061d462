"""One HTML file that shows what was run and what came out.

    python -m anprompt report output -o report.html
    python -m anprompt report output output_demo -o report.html --figures figures

Reads every results.json and robustness.json below the given folders, and training curves from the
log.txt beside them. What no table may hold is refused or left out, as by ``anprompt table``. The
file needs no network and nothing beside it: light and dark, phone and paper. Click or tap a number
to see the files it comes from. --figures DIR writes each figure as PNG and its data as CSV as well.

exit status: 0 done, 2 bad input (one line says what).
"""

import argparse
import shlex
from pathlib import Path

from common.cli import CommandParser
from common.errors import UsageError


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folders", nargs="*", type=Path, default=[Path("output")], metavar="OUTPUT")
    add("-o", "--output", type=Path, default=Path("report.html"), metavar="FILE.html")
    add("--title", default="Prompt learning, what was measured", help="of the page")
    add("--figures", type=Path, metavar="DIR", help="write each figure as PNG and CSV here")
    add("--highlight", default="ANPrompt", metavar="TRAINER", help="drawn in front")
    add(
        "--baseline", default="ZeroshotCLIP", metavar="TRAINER", help="what classes are compared to"
    )
    return parser


def main(argv: list[str]) -> int:
    """Run ``anprompt report``; returns the exit status."""
    args = make_parser().parse_args(argv)
    if args.output.suffix not in (".html", ".htm"):
        raise UsageError(f"{args.output}: name a .html file")
    # After parsing, so that --help and a misspelt flag are answered at once.
    from anprompt.results.report.charts import to_csv, to_png
    from anprompt.results.report.data import gather
    from anprompt.results.report.page import render
    from common.files import atomic_write
    from common.provenance import provenance

    data = gather(args.folders, args.baseline, args.highlight)
    command = shlex.join(["python", "-m", "anprompt", "report", *map(str, args.folders)])
    document, charts = render(data, args.title, provenance(command))
    with atomic_write(str(args.output)) as file:
        file.write(document)
    if args.figures is not None:
        for chart in charts:
            with atomic_write(str(args.figures / f"{chart.name}.png"), "wb") as file:
                file.write(to_png(chart))
            with atomic_write(str(args.figures / f"{chart.name}.csv")) as file:
                file.write(to_csv(chart))
    print(f"{args.output}: {len(data.runs)} runs, {len(charts)} figures")
    if args.figures is not None:
        print(f"{args.figures}: {len(charts)} PNG and CSV files")
    return 0
