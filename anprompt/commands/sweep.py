"""Run a protocol over methods, data sets, shots and seeds; one line a run, with time left.

    python -m anprompt sweep base2new --methods zsclip,coop,anprompt --datasets shapes --seeds 1,2,3
    python -m anprompt sweep crossdata --methods all --source caltech101 --targets eurosat,dtd
    python -m anprompt sweep domaingen --methods coop,anprompt
    python -m anprompt sweep fewshot --methods coop --datasets eurosat --shots 1,4,16
    python -m anprompt sweep base2new --plugin mine.py --methods MyMethod --cfg MyMethod=mine.yaml

Runs go seed by seed, so that a sweep cut short still compares methods; a test waits for its
training. Finished runs are skipped, interrupted ones taken up again by train.py: the same command
goes on. A run that fails does not stop the others. Each prints to OUTPUT/logs. Before the first one
starts, settings, data sets, weights and the disk are checked, and all problems listed. The
environment means what it means to the scripts: DATA, OUTPUT, BACKBONE, SHOTS, SOURCE, CFG, PLUGIN,
LOADEP; with DRY_RUN=1 nothing runs, and what would is printed.

Every visible GPU (CUDA_VISIBLE_DEVICES) takes a run at a time; on several, the longest runs go
first. Without a GPU, runs go side by side on one thread each (unless OMP_NUM_THREADS says
otherwise): results do not depend on --jobs.

exit status: 0 done, 1 some runs failed, 2 bad input, 130 interrupted.
"""

import argparse
import re
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from anprompt.protocols.environment import Environment, numbers
from anprompt.protocols.methods import Method, all_methods, plugin_method
from anprompt.protocols.plan import PROTOCOLS, RunSpec, check_datasets, plan
from anprompt.sweeps.checks import problems
from anprompt.sweeps.costs import Costs, learn_from_folder
from anprompt.sweeps.devices import slots
from anprompt.sweeps.finished import find_finished
from anprompt.sweeps.processes import about_locks
from anprompt.sweeps.scheduler import Slot, Sweep
from anprompt.sweeps.shards import command_lines, shard
from anprompt.sweeps.status import status_lines
from common.cli import CommandParser
from common.errors import UsageError


def _list(text: str) -> list[str]:
    return list(dict.fromkeys(item for item in re.split(r"[,\s]+", text) if item))


def _config(text: str) -> tuple[str, list[str]]:
    method, _, configs = text.partition("=")
    if not method or not _list(configs):
        raise argparse.ArgumentTypeError(f"{text!r}: expected METHOD=CONFIG")
    return method, _list(configs)


def make_parser(command: str = "sweep", about: str | None = __doc__) -> argparse.ArgumentParser:
    """Return the parser of what stands before ``--``.

    Args:
        command: what the help calls it.
        about: what the help begins with.
    """
    parser = CommandParser(
        prog=f"anprompt {command}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("protocol", choices=list(PROTOCOLS))
    parser.add_argument(
        "--methods", type=_list, default=["all"], metavar="A,B",
        help="trainers, or what the scripts call them, or all (default)",
    )  # fmt: skip
    parser.add_argument(
        "--datasets", "--targets", type=_list, metavar="A,B",
        help="files of configs/datasets/ (default: CoOp's eleven); of crossdata and domaingen "
        "those tested on (default: the eleven but the source; the four ImageNet variants)",
    )  # fmt: skip
    parser.add_argument("--seeds", default="1,2,3", metavar="1,2")
    parser.add_argument(
        "--shots", metavar="1,2",
        help="images per class (default: $SHOTS or 16; of fewshot 1,2,4,8,16)",
    )  # fmt: skip
    parser.add_argument(
        "--source", metavar="NAME",
        help="crossdata, domaingen: the data set trained on (default: $SOURCE or imagenet)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, metavar="N",
        help="runs side by side, at most (default: what the GPUs take; else one a core, at most 4)",
    )  # fmt: skip
    parser.add_argument(
        "--gpus", metavar="0-3,6",
        help="of the visible GPUs those that take runs (default: all; '' for none)",
    )  # fmt: skip
    parser.add_argument(
        "--per-gpu", type=int, default=1, metavar="N",
        help="runs side by side on a GPU: small data sets leave one idle half of the time",
    )  # fmt: skip
    parser.add_argument(
        "--shard", metavar="I/N",
        help="run the I-th of N parts of equal length, one on each machine that shares OUTPUT",
    )  # fmt: skip
    shows = parser.add_mutually_exclusive_group()
    shows.add_argument(
        "--print-commands", action="store_true",
        help="print what is not finished as lines of shell that may run in any order, for xargs, "
        "GNU parallel or a scheduler; start nothing",
    )  # fmt: skip
    shows.add_argument(
        "--status", action="store_true",
        help="say which runs are finished, running, stopped (and their last words) and waiting; "
        "start nothing",
    )  # fmt: skip
    parser.add_argument(
        "--cfg", type=_config, action="append", default=[], metavar="METHOD=CONFIG",
        help="a file of configs/trainers/ other than the method's default, several as A,B, or the "
        "path of a YAML file (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py",
        help="a file of your own trainers or data sets (default: $PLUGIN; repeatable)",
    )  # fmt: skip
    parser.epilog = "KEY VALUE settings for all runs stand at the end, after --"
    return parser


def parse(
    argv: Sequence[str], parser: argparse.ArgumentParser, output: str = "output"
) -> tuple[argparse.Namespace, list[str]]:
    """Return the flags, with the environment as ``environment`` among them, and the settings that
    stand behind ``--``.

    Args:
        output: where results go without OUTPUT.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    args, unknown = parser.parse_known_args(argv[:end])
    if unknown:
        parser.error(f"unknown arguments: {' '.join(unknown)}; KEY VALUE settings stand after --")
    environment = Environment.read(output=output)
    if args.plugin:
        environment = replace(environment, plugins=tuple(args.plugin))
    if args.source:
        environment = replace(environment, source=args.source)
    args.environment = environment
    return args, list(argv[end + 1 :])


def runs_for(args: argparse.Namespace) -> list[RunSpec]:
    """Return the runs that the command line asks for.

    Raises:
        UsageError: a name that does not exist, a number that is none, or no folder of data sets.
    """
    environment: Environment = args.environment
    protocol = PROTOCOLS[args.protocol]
    methods = _methods(args.methods, environment)
    usual = ",".join(map(str, protocol.shots))
    shots = numbers("--shots", args.shots or environment.shots or usual, least=1)
    seeds = numbers("--seeds", args.seeds, least=0)
    for option, given in (("--jobs", args.jobs), ("--per-gpu", args.per_gpu)):
        if given is not None and given < 1:
            raise UsageError(f"{option} {given}: expected 1 or more")
    datasets = list(protocol.datasets if args.datasets is None else args.datasets)
    check_datasets(datasets)
    read = [*datasets, environment.source] if protocol.is_transfer else datasets
    check_datasets(read)
    environment.check_data(read)
    configs = {method.trainer: [environment.config] for method in methods if environment.config}
    for name, names in args.cfg:
        configs[plugin_method(name, environment.plugins).trainer] = names
    runs = plan(args.protocol, methods, datasets, seeds, shots, environment.source, configs=configs)
    runs = environment.with_backbone(runs)
    if args.shard:
        # The same division on every machine: what is finished, or a CPU, does not matter.
        runs = shard(runs, args.shard, Costs("gpu").seconds)
    return runs


def _methods(names: Sequence[str], environment: Environment) -> list[Method]:
    if not names:
        known = ", ".join(method.name for method in all_methods())
        raise UsageError(f"no method named; there are: {known}")
    if list(names) == ["all"]:
        return all_methods()
    return list(dict.fromkeys(plugin_method(name, environment.plugins) for name in names))


def main(argv: list[str]) -> int:
    """Run ``anprompt sweep``; returns the exit status."""
    return run(*parse(argv, make_parser()))


def run(args: argparse.Namespace, options: Sequence[str]) -> int:
    """Run what `parse` returned; returns the exit status."""
    end_on_signals()
    runs = runs_for(args)
    environment: Environment = args.environment
    if not runs:
        print(f"--shard {args.shard}: nothing is left for this part")
        return 0
    print(environment.about_backbone(runs[0].backbone), file=sys.stderr, flush=True)
    finished = find_finished(runs, environment, options)
    missing = [run for run in runs if run not in finished]
    if args.status:
        print("\n".join(status_lines(runs, finished, environment)))
        return 0
    if args.print_commands:
        print("\n".join(command_lines(missing, environment, options)))
        return 0
    if environment.is_dry_run:
        _show(runs, finished, environment, options)
        return 0
    places, about = slots(args.jobs, args.gpus, args.per_gpu)
    is_gpu = bool(places[0].name)
    costs = Costs("gpu" if is_gpu else "cpu", options)
    print(f"{len(runs)} runs, {about}; logs in {environment.output}/logs", flush=True)
    if missing:
        _prepare(missing, environment, options, costs, places)
    sweep = Sweep(
        runs, environment, options,
        finished=finished, slots=places, costs=costs, longest_first=is_gpu and len(places) > 1,
    )  # fmt: skip
    return sweep.go()


def _show(
    runs: Sequence[RunSpec],
    finished: Mapping[RunSpec, Mapping[str, Any]],
    environment: Environment,
    options: Sequence[str],
) -> None:
    """Print what is finished and the commands of the others."""
    width = max(map(len, map(str, runs)))
    for run in runs:
        if run in finished:
            print(f"{str(run):<{width}}  {finished[run]['accuracy']:5.1f}%  earlier")
        else:
            print(f"{run}:\n    {shlex.join(environment.command(run, options))}")
    print(f"{len(finished)} of {len(runs)} runs are done; nothing was started.")


def _prepare(
    missing: Sequence[RunSpec],
    environment: Environment,
    options: Sequence[str],
    costs: Costs,
    places: Sequence[Slot],
) -> None:
    """Check what the missing runs need, and say what they are expected to take.

    Raises:
        UsageError: something is not there; each problem is printed before.
    """
    found = problems(missing, environment, options)
    if len(found) > 1:
        print("\n".join(f"problem: {problem}" for problem in found), file=sys.stderr)
        raise UsageError(f"{len(found)} problems, listed above; nothing was started")
    if found:
        raise UsageError(found[0])
    learn_from_folder(costs, environment.output)
    hours = costs.total(missing, len(places)) / 3600
    memory = f", {costs.gigabytes(missing):.0f} GB of a GPU" if places[0].name else ""
    took = f"{hours:.1f} h" if hours >= 1 else f"{max(hours * 60, 1):.0f} min"
    print(f"{len(missing)} to run: about {took}{memory} ({costs.about()})", flush=True)
    if warning := about_locks():
        print(warning, flush=True)


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

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and (name == "SIGINT" or signal.getsignal(number) != signal.SIG_IGN):
            signal.signal(number, interrupt)
