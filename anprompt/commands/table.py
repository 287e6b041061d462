"""Tables of results: base to new, cross-dataset, domain generalisation, few-shot.

    python -m anprompt table                         every run below output/, every protocol
    python -m anprompt table output/base2new -o table.md
    python -m anprompt table --protocol crossdata --methods ZeroshotCLIP,CoOp,ANPrompt -o table.tex
    python -m anprompt table ~/CoOp/output           runs of upstream's code, from their log.txt

Figures come from results.json, and for runs of upstream's code from log.txt, which prints one
decimal. Runs that are not finished are named and left out; what no run gives is shown as -. Runs
that differ in backbone, configuration or shots stand in rows of their own, and runs of one row that
differ in anything but their seed are refused. Averages over data sets are over those that every
method shown has. A deviation (+-) is that of the population (ddof 0) over seeds, as
parse_test_res.py and upstream print it.
"""

import argparse
from pathlib import Path

from anprompt.results.assign import Placed, place
from anprompt.results.protocol_tables import HM_NOTE, make_tables, protocols_with_runs
from anprompt.results.published import add_published
from anprompt.results.render import FORMAT_OF_SUFFIX, RENDERERS
from anprompt.results.run import Run, find_runs
from anprompt.results.table import PROTOCOLS, Table
from common.cli import CommandParser
from common.errors import UsageError


def _notes(
    tables: list[Table], runs: list[Run], placed: Placed, unfinished: list[Path]
) -> list[str]:
    lines = [line for table in tables for line in table.lines]
    figures = [figure for line in lines for figure in line.figures]
    backbones = sorted({line.backbone for line in lines if not line.source})
    shots = sorted({line.shots for line in lines if line.shots})
    of_shots = f"; {', '.join(map(str, shots))} shots" if shots else ""
    notes = [f"Backbone {', '.join(backbones)}{of_shots}; accuracy in %."]
    if any(line.source for line in lines):
        notes.append("published: CLIP ViT-B/16, 16 images a class where columns are not shots.")
    if any(figure and figure.std is not None for figure in figures):
        notes.append("+- is the (population) standard deviation over seeds.")
    if any(figure is None for figure in figures):
        notes.append("- in a column of figures: no finished run, or nothing published.")
    if any(table.protocol == "base2new" for table in tables):
        notes.append(HM_NOTE)
    if any(line.rule for line in lines):
        notes.append("rule: which logits decide, of methods that have a choice.")
    if any(" / " in line.rule for line in lines):
        notes.append(
            "'a / b' is the method's own protocol, a for base and b for new classes; it knows "
            "which half it is tested on."
        )
    if any(run.origin for run in runs):
        notes.append("log.txt: runs of upstream's code, whose logs print one decimal.")
    notes += [f"in no table: {folder} ({reason})" for folder, reason in placed.left_out]
    notes += [f"not finished, left out: {folder}" for folder in unfinished]
    return notes


def _select_methods(runs: list[Run], methods: list[str]) -> list[Run]:
    unknown = set(methods) - {run.trainer for run in runs}
    if unknown:
        there = ", ".join(sorted({run.trainer for run in runs})) or "none"
        raise UsageError(f"no finished run of {', '.join(sorted(unknown))}; there are: {there}")
    return [run for run in runs if run.trainer in methods]


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, default=[Path("output")], help="default: output"
    )
    parser.add_argument(
        "--protocol", choices=list(PROTOCOLS), help="default: every one that there are runs of"
    )
    parser.add_argument("--methods", default="", help="trainers to show, in this order: A,B,C")
    parser.add_argument(
        "--all-rules", action="store_true", help="also one inference rule for all classes"
    )
    parser.add_argument(
        "--split-configs",
        action="store_true",
        help="a row for each configuration of a trainer, also where no data set has two of them",
    )
    parser.add_argument(
        "--published",
        action=argparse.BooleanOptionalAction,
        help="published figures of the same methods, with their sources (default: beside rows with "
        "ViT-B/16, which they are for; --published shows them beside any backbone)",
    )
    parser.add_argument("--format", choices=list(RENDERERS), default="text", help="of the output")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="write here as well; .md, .csv, .tex or .txt says the format",
    )
    return parser


def _gather(args: argparse.Namespace) -> tuple[list[Table], list[str]]:
    """The tables that are asked for, and notes on all of them.

    Raises:
        ValueError: there are none, or runs that cannot be shown together.
    """
    runs, unfinished = find_runs(args.folders, logs=True)
    methods = args.methods.split(",") if args.methods else None
    if methods:
        runs = _select_methods(runs, methods)
    placed = place(runs)
    tables = [
        table
        for protocol in ([args.protocol] if args.protocol else protocols_with_runs(placed))
        for table in make_tables(protocol, placed, args.all_rules, args.split_configs, methods)
    ]
    if not tables:
        what = f" of {args.protocol}" if args.protocol else ""
        more = [f"{len(unfinished)} not finished"] if unfinished else []
        more += [f"{folder}: {reason}" for folder, reason in placed.left_out[:1]]
        raise UsageError(
            f"{', '.join(map(str, args.folders))}: no finished run{what} there or below"
            + (f" ({'; '.join(more)})" if more else "")
        )
    if args.published is not False:
        tables = add_published(tables, always=bool(args.published))
    return tables, _notes(tables, runs, placed, unfinished)


def main(argv: list[str]) -> int:
    """Run ``anprompt table``; returns the exit status."""
    args = _make_parser().parse_args(argv)
    if args.output and args.output.suffix not in FORMAT_OF_SUFFIX:
        raise UsageError(f"{args.output}: name a {', '.join(FORMAT_OF_SUFFIX)} file")
    tables, notes = _gather(args)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        written = RENDERERS[FORMAT_OF_SUFFIX[args.output.suffix]](tables, notes)
        args.output.write_text(written, encoding="utf-8")
    print(RENDERERS[args.format](tables, notes), end="")
    return 0
