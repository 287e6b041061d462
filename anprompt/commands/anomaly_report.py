"""One HTML file on anomaly detection: tables, maps over images, best and worst cases, curves.

    python -m anprompt anomaly-report output -o anomaly.html

Reads every results.json of anomaly detection below the given folders and the anomaly.npz beside it.
The file needs no network and no other file. For each method and category the run with the lowest
seed is shown in pictures.

exit status: 0 done, 2 bad input (one line says what).
"""

import argparse
import shlex
from pathlib import Path

from common.cli import CommandParser
from common.errors import UsageError


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt anomaly-report",
        description=__doc__,
    )
    add = parser.add_argument
    add("folders", nargs="*", type=Path, default=[Path("output")], metavar="OUTPUT")
    add("-o", "--output", type=Path, default=Path("anomaly.html"), metavar="FILE.html")
    add("--title", default="Anomaly detection, what was measured", help="title of the page")
    return parser


def main(argv: list[str]) -> int:
    """Run ``anprompt anomaly-report``; returns the exit status."""
    args = make_parser().parse_args(argv)
    if args.output.suffix not in (".html", ".htm"):
        raise UsageError(f"{args.output}: name a .html file")
    from anprompt.results.anomaly import find_anomaly_runs, left_out_notes
    from anprompt.results.report.anomaly import render_anomaly
    from common.files import atomic_write

    runs, left_out = find_anomaly_runs(args.folders)
    if not runs:
        where = ", ".join(map(str, args.folders))
        raise UsageError(f"{where}: no finished run of anomaly detection there or below")
    command = shlex.join(["python", "-m", "anprompt", "anomaly-report", *map(str, args.folders)])
    document = render_anomaly(runs, args.title, command, left_out_notes(left_out))
    with atomic_write(str(args.output)) as file:
        file.write(document)
    print(f"{args.output}: {len(runs)} runs")
    return 0
