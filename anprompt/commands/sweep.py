"""Run a protocol's script over methods, data sets, shots and seeds; one line a run, with time left.

    python -m anprompt sweep base2new --methods zsclip,coop,anprompt --datasets shapes --seeds 1,2,3
    python -m anprompt sweep crossdata --methods all --source caltech101 --targets eurosat,dtd
    python -m anprompt sweep domaingen --methods coop,anprompt
    python -m anprompt sweep fewshot --methods coop --datasets eurosat --shots 1,4,16

Runs go seed by seed, so that a sweep cut short still compares methods; a test waits for its
training. Finished runs are skipped, interrupted ones taken up again by train.py: the same command
goes on. A run that fails does not stop the others. Each prints to OUTPUT/logs. The
environment means what it means to the scripts: DATA, OUTPUT, BACKBONE, SHOTS, SOURCE, CFG; with
DRY_RUN=1 nothing runs, and what would is printed.

Without a GPU, runs go side by side on one thread each (unless OMP_NUM_THREADS says otherwise):
results do not depend on --jobs.
"""

import argparse
import os
import re
import signal
import time
from pathlib import Path

from anprompt.protocols import plan as planning
from anprompt.protocols.plan import DATASETS, IMAGENET_VARIANTS, SCRIPTS, Job
from anprompt.sweeps.scheduler import Sweep, share_machine
from common.cli import CommandParser
from common.errors import UsageError
from common.paths import ROOT


def _list(text: str) -> list[str]:
    return list(dict.fromkeys(item for item in re.split(r"[,\s]+", text) if item))


def _config(text: str) -> tuple[str, str]:
    method, _, config = text.partition("=")
    if not config:
        raise argparse.ArgumentTypeError(f"{text!r}: expected METHOD=CONFIG")
    return method, config


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("protocol", choices=list(SCRIPTS))
    parser.add_argument(
        "--methods", type=_list, default=["all"], metavar="A,B",
        help="folders of scripts/, or all (default)",
    )  # fmt: skip
    parser.add_argument(
        "--datasets", "--targets", type=_list, metavar="A,B",
        help="files of configs/datasets/ (default: CoOp's eleven); of crossdata and domaingen "
        "those tested on (default: the eleven but the source; the four ImageNet variants)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=_list, default=["1", "2", "3"], metavar="1,2")
    parser.add_argument(
        "--shots", type=_list, metavar="1,2",
        help="images per class (default: $SHOTS or 16; of fewshot 1,2,4,8,16)",
    )  # fmt: skip
    parser.add_argument(
        "--source", default=os.environ.get("SOURCE") or "imagenet", metavar="NAME",
        help="crossdata, domaingen: the data set trained on (default: $SOURCE or imagenet)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, metavar="N",
        help="runs side by side (default: 1 on a GPU; else one a core, at most 4)",
    )  # fmt: skip
    parser.add_argument(
        "--cfg", type=_config, action="append", default=[], metavar="METHOD=CONFIG",
        help="another file of configs/trainers/ than the method's default (repeatable)",
    )  # fmt: skip
    parser.epilog = "KEY VALUE settings for all runs stand at the end, after --"
    return parser


def jobs_for(args: argparse.Namespace) -> list[Job]:
    """What the command line asks for.

    Raises:
        ValueError: a name that does not exist, a number that is none, or no folder of data sets.
    """
    known = planning.all_methods()
    methods = known if args.methods == ["all"] else args.methods
    planning.check_names("method", methods, known)
    if args.shots is None:
        several = ["1", "2", "4", "8", "16"] if args.protocol == "fewshot" else ["16"]
        args.shots = _list(os.environ.get("SHOTS", "")) or several
    planning.check_numbers("--shots", args.shots, least=1)
    planning.check_numbers("--seeds", args.seeds, least=0)
    if args.jobs is not None and args.jobs < 1:
        raise UsageError(f"--jobs {args.jobs}: expected 1 or more")
    if args.datasets is None:
        args.datasets = IMAGENET_VARIANTS if args.protocol == "domaingen" else DATASETS
    read = list(args.datasets)
    if SCRIPTS[args.protocol] == "crossdata":
        read.append(args.source)
    planning.check_names("data set", read, planning.all_datasets())
    if read != ["shapes"] and not os.environ.get("DATA"):
        raise UsageError("DATA is not set: it names the folder that holds the data sets")
    return planning.plan(args.protocol, methods, args.datasets, args.seeds, args.shots, args.source)


def main(argv: list[str]) -> int:
    """Run ``anprompt sweep``; returns the exit status."""
    end_on_signals()
    end = argv.index("--") if "--" in argv else len(argv)
    parser = make_parser()
    args, unknown = parser.parse_known_args(argv[:end])
    if unknown:
        parser.error(f"unknown arguments: {' '.join(unknown)}; KEY VALUE settings stand after --")
    jobs = jobs_for(args)
    output = Path(os.environ.get("OUTPUT") or ROOT / "output")
    if os.environ.get("DRY_RUN"):
        return Sweep(jobs, output, dict(args.cfg), argv[end + 1 :]).show()
    at_once, threads = share_machine(args.jobs)
    each = f", {threads} thread{'s' if threads > 1 else ''} each" if threads else ""
    print(f"{len(jobs)} runs, {at_once} at a time{each}; logs in {output / 'logs'}", flush=True)
    return Sweep(jobs, output, dict(args.cfg), argv[end + 1 :], at_once, threads).go()


def end_on_signals() -> None:
    """However this process is told to end, the runs are to end with it.

    Also by SIGINT, which what a shell starts in the background ignores. One Ctrl-C may arrive
    several times, from the terminal and from a script: within two seconds they are one.
    """
    last = 0.0

    def interrupt(number: int, frame: object) -> None:
        nonlocal last
        if time.monotonic() - last > 2:
            last = time.monotonic()
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
