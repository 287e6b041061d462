"""Tables of results: base to new, cross-dataset, domain generalisation, few-shot, noise.

    python -m anprompt table                         every run below output/, every protocol
    python -m anprompt table output/base2new -o table.md
    python -m anprompt table --protocol crossdata --methods zsclip,coop,anprompt -o table.tex
    python -m anprompt table --protocol noise -o noise.csv        what robustness has measured
    python -m anprompt table --robust eps1           accuracy, and beside it that under PGD at 1/255
    python -m anprompt table --paired --against CoOp              which differences are real
    python -m anprompt table --grid --columns base,new,HM --against CoOp -o grid.tex
    python -m anprompt table --protocol anomaly --metric aupro    anomaly detection, by category
    python -m anprompt table ~/CoOp/output           runs of upstream's code, from their log.txt

Figures come from results.json, and for runs of upstream's code from log.txt, which prints one
decimal. Runs that are not finished are named and left out; what no run gives is shown as -. Runs
that differ in backbone, configuration or shots stand in rows of their own, and runs of one row that
differ in anything but their seed are refused. Averages over data sets are over those that every
method shown has. A deviation (+-) is that of the population (ddof 0) over seeds, as
parse_test_res.py and upstream print it. docs/TABLES.md says more.

exit status: 0 done, 2 bad input (one line says what).
"""

import argparse
import re
from dataclasses import replace
from pathlib import Path

from anprompt.protocols.methods import method_of
from anprompt.results.anomaly import MEASURES as ANOMALY_MEASURES
from anprompt.results.anomaly import anomaly_tables, find_anomaly_runs, left_out_notes
from anprompt.results.assign import Placed, place
from anprompt.results.effective import effective_tables
from anprompt.results.evidence import Evidence
from anprompt.results.matrix import make_matrices, with_difference
from anprompt.results.measures import MEASURES
from anprompt.results.noise.compare import compare
from anprompt.results.noise.files import FILE_NAME, read_below
from anprompt.results.noise.tables import NOISE_NOTES, all_tables
from anprompt.results.paired import NOTES, paired_tables
from anprompt.results.protocol_tables import make_tables, notes_on, protocols_with_runs
from anprompt.results.published import add_published
from anprompt.results.render import FORMAT_OF_SUFFIX, RENDERERS
from anprompt.results.robust import Attack, attacked_runs, beside
from anprompt.results.run import find_runs
from anprompt.results.table import PROTOCOLS, Table
from anprompt.robustness.plan import ATTACKS, PRESETS
from common.cli import CommandParser
from common.errors import UsageError
from common.files import atomic_write
from common.names import nearest
from noise.kinds import get_kind


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt table",
        description=__doc__,
    )
    add = parser.add_argument
    add("folders", nargs="*", type=Path, default=[Path("output")], help="default: output")
    add(
        "--protocol",
        choices=[*PROTOCOLS, "noise", "anomaly"],
        help="default: every protocol of classification that has runs; noise and anomaly detection "
        "are shown only when asked for",
    )
    add("--methods", default="", help="methods to show, in this order: coop,anprompt")
    add("--all-rules", action="store_true", help="also rows with one rule for all classes")
    add(
        "--split-configs",
        action="store_true",
        help="a row for each configuration of a trainer, also where no data set has two of them",
    )
    add(
        "--paired",
        action="store_true",
        help="differences to --against instead: 95%% intervals by paired bootstrap over test "
        "images and seeds, and McNemar's p, from the predictions that runs kept",
    )
    add(
        "--grid",
        action="store_true",
        help="methods by data sets, a part for each column; in LaTeX one table",
    )
    add("--columns", default="", help="grid: columns, in this order: base,new,HM or '16 shots'")
    add("--order", default="", help="grid: data sets, in this order: average,ImageNet,EuroSAT")
    add("--deviations", action="store_true", help="grid: with deviations over seeds")
    add(
        "--against",
        default="",
        metavar="NAME",
        help="paired: the method that others are compared with (default: ZeroshotCLIP); grid: adds "
        "a row with the last row minus this one",
    )
    add(
        "--metric",
        choices=[*MEASURES, *ANOMALY_MEASURES],
        default="accuracy",
        help="measure that the numbers are of",
    )
    add(
        "--published",
        action=argparse.BooleanOptionalAction,
        help="published figures of the same methods, with their sources (default: beside rows with "
        "the backbone that they are for; --published shows them beside any)",
    )
    add(
        "--robust",
        metavar="ATTACK",
        help="a column with the accuracy under an attack beside each: a preset (eps1, eps4) or an "
        "attack and its bound in 255ths (pgd100:1), as anprompt robustness has measured it",
    )
    add("--all-kinds", action="store_true", help="noise: means over all kinds, seen or not")
    add("--format", choices=list(RENDERERS), default="text", help="format of the output")
    add(
        "-o",
        "--output",
        type=Path,
        help="write here as well; .md, .csv, .tex, .txt or .json says the format",
    )
    return parser


def _trainers(names: str, there: set[str]) -> list[str]:
    """Return the trainers that are asked for, as scripts or trainers are called, whatever the case.

    Raises:
        UsageError: there is no run of one of them.
    """
    known = {trainer.casefold(): trainer for trainer in there}
    known |= {method_of(trainer).name.casefold(): trainer for trainer in there}
    found = []
    for name in filter(None, re.split(r"[,\s]+", names)):
        if name.casefold() not in known:
            near = nearest(name, [*known, *sorted(there)])
            hint = f"; did you mean {near[0]}?" if near else "."
            shown = ", ".join(sorted(there)) or "none"
            raise UsageError(f"no finished run of {name!r}{hint} There are: {shown}")
        found.append(known[name.casefold()])
    return found


def _tables(args: argparse.Namespace) -> tuple[list[Table], list[str]]:
    """Return the tables that are asked for, and notes on all of them.

    Raises:
        UsageError: there are none, or runs that cannot be shown together.
    """
    runs, unfinished = find_runs(args.folders, logs=True)
    methods = _trainers(args.methods, {run.trainer for run in runs})
    if methods:
        runs = [run for run in runs if run.trainer in methods]
    placed = place(runs)

    def make(placed: Placed) -> list[Table]:
        return [
            table
            for protocol in ([args.protocol] if args.protocol else protocols_with_runs(placed))
            for table in make_tables(
                protocol,
                placed,
                all_rules=args.all_rules,
                split_configs=args.split_configs,
                methods=methods,
                metric=args.metric,
            )
        ]

    attack = _attack(args)
    tables = make(placed)
    if not tables and runs and MEASURES[args.metric].is_kept:
        raise UsageError(
            f"--metric {args.metric} is computed from answers to each image, and no run here kept "
            "them (predictions.npz); test again with TEST.SAVE_PREDICTIONS True"
        )
    if not tables:
        what = f" of {args.protocol}" if args.protocol else ""
        more = [f"{len(unfinished)} not finished"] if unfinished else []
        more += [f"{folder}: {reason}" for folder, reason in placed.left_out[:1]]
        raise UsageError(
            f"{', '.join(map(str, args.folders))}: no finished run{what} there or below"
            + (f" ({'; '.join(more)})" if more else "")
        )
    evidence = Evidence(runs)
    for table in tables:
        table.evidence = evidence if args.metric == "accuracy" else None
    if args.paired:
        if args.metric != "accuracy":
            raise UsageError("--paired compares accuracies; leave --metric out")
        against = args.against or "ZeroshotCLIP"
        notes = notes_on(tables, placed, unfinished)
        return paired_tables(tables, evidence, against), [*notes, *NOTES]
    if args.grid:
        tables = _grid(tables, args)
    is_plain = args.metric == "accuracy" and not args.grid
    effective = effective_tables(tables) if is_plain else []
    robust: list[Table] = []
    if attack:
        found = attacked_runs(runs, read_below(args.folders), attack)
        if not any(run.attacked for run in found):
            unlike = next((f" ({run.unlike})" for run in found if run.unlike), "")
            raise UsageError(
                f"--robust {args.robust}: no run was attacked so{unlike}; python -m anprompt "
                f"robustness --model-dir RUN --noise {attack.kind} --eps {attack.bound}"
            )
        robust = [replace(table, attack=attack.name) for table in make(place(found))]
    if args.published is not False and is_plain:
        every = add_published([*tables, *robust], always=bool(args.published))
        tables, robust = every[: len(tables)], every[len(tables) :]
    if attack:
        tables = beside(tables, robust, attack)
    return [*tables, *effective], notes_on(tables, placed, unfinished)


def _attack(args: argparse.Namespace) -> Attack | None:
    """Return the attack that ``--robust`` names; None without it.

    Raises:
        UsageError: there is no such attack.
    """
    if not args.robust:
        return None
    kind, colon, bound = args.robust.partition(":")
    if not colon and kind in PRESETS and PRESETS[kind][1]:
        (kind,), own = PRESETS[kind]
        return Attack(kind, own or 0)
    get_kind(ATTACKS, kind, "attack (--robust)")
    if not (bound.isdecimal() and 1 <= int(bound) <= 255):
        raise UsageError(f"--robust {args.robust}: name its bound in 255ths, 1 to 255: {kind}:1")
    return Attack(kind, int(bound))


def _grid(tables: list[Table], args: argparse.Namespace) -> list[Table]:
    """Return each protocol's tables as methods by data sets."""
    columns, order = (
        re.split(r"\s*,\s*", text) if text else [] for text in (args.columns, args.order)
    )
    found = []
    for protocol in dict.fromkeys(table.protocol for table in tables):
        own = [table for table in tables if table.protocol == protocol]
        found += make_matrices(own, columns, order)
    if args.against:
        found = [with_difference(table, args.against) for table in found]
    for table in found:
        table.columns = [replace(c, has_deviation=args.deviations) for c in table.columns]
    return found


def _anomaly_tables(args: argparse.Namespace) -> tuple[list[Table], list[str]]:
    """Return tables of anomaly detection, methods by categories.

    Raises:
        UsageError: there are none.
    """
    runs, left_out = find_anomaly_runs(args.folders)
    methods = _trainers(args.methods, {run.trainer for run in runs})
    if methods:
        runs = [run for run in runs if run.trainer in methods]
    metrics = [args.metric] if args.metric in ANOMALY_MEASURES else []
    tables = anomaly_tables(runs, metrics, methods)
    if not tables:
        where = ", ".join(map(str, args.folders))
        raise UsageError(f"{where}: no finished run of anomaly detection there or below")
    values = [value for table in tables for row in table.rows for value in row.values]
    missing = ["- in a column of figures: no finished run, or other seeds."] * (None in values)
    return tables, missing + left_out_notes(left_out)


def _noise_tables(args: argparse.Namespace) -> tuple[list[Table], list[str]]:
    """Return tables of figures under noise.

    Raises:
        UsageError: there are none.
    """
    found = read_below(args.folders)
    methods = _trainers(args.methods, {evaluation.header["trainer"] for evaluation in found})
    order = {trainer: i for i, trainer in enumerate(methods)}
    if methods:
        found = [e for e in found if e.header["trainer"] in order]
        found.sort(key=lambda evaluation: order[evaluation.header["trainer"]])
    if not found:
        raise UsageError(f"{', '.join(map(str, args.folders))}: no {FILE_NAME} there or below")
    comparisons = compare(found, args.all_kinds)
    return all_tables(comparisons, args.all_kinds), NOISE_NOTES


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that would be without effect.

    Raises:
        UsageError: names them.
    """
    if args.paired and args.grid:
        raise UsageError("--paired and --grid are two tables; give one of them")
    if args.protocol in ("noise", "anomaly") and (args.paired or args.grid):
        raise UsageError(f"--paired and --grid do not go with --protocol {args.protocol}")
    if args.robust and (args.paired or args.grid):
        raise UsageError("--robust shows tables of its own; leave --paired and --grid out")
    if args.robust and (args.metric != "accuracy" or args.protocol in ("noise", "anomaly")):
        raise UsageError("--robust goes beside accuracy; leave --metric and --protocol noise out")
    if not args.grid and (args.columns or args.order or args.deviations):
        raise UsageError("--columns, --order and --deviations go with --grid")
    if args.against and not (args.paired or args.grid):
        raise UsageError("--against goes with --paired or --grid")


def main(argv: list[str]) -> int:
    """Run ``anprompt table``; returns the exit status."""
    args = _make_parser().parse_args(argv)
    if args.output and args.output.suffix not in FORMAT_OF_SUFFIX:
        raise UsageError(f"{args.output}: name a {', '.join(FORMAT_OF_SUFFIX)} file")
    _check_options(args)
    _attack(args)  # refused before anything is read
    make = {"noise": _noise_tables, "anomaly": _anomaly_tables}.get(args.protocol, _tables)
    if args.metric in ANOMALY_MEASURES and args.protocol != "anomaly":
        raise UsageError(f"--metric {args.metric} is of anomaly detection: --protocol anomaly")
    tables, notes = make(args)
    if args.output:
        with atomic_write(args.output) as file:
            file.write(RENDERERS[FORMAT_OF_SUFFIX[args.output.suffix]](tables, notes))
    print(RENDERERS[args.format](tables, notes), end="")
    return 0
