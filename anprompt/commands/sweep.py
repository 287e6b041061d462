"""Run a protocol over methods, data sets, shots and seeds; one line a run, with time left.

    python -m anprompt sweep base2new --methods zsclip,coop,anprompt --datasets shapes --seeds 1,2,3
    python -m anprompt sweep crossdata --methods all --source caltech101 --targets eurosat,dtd
    python -m anprompt sweep domaingen --methods coop,anprompt
    python -m anprompt sweep fewshot --methods coop --datasets eurosat --shots 1,4,16
    python -m anprompt sweep base2new --plugin mine.py --methods MyMethod --cfg MyMethod=mine.yaml

Runs go seed by seed, so that a sweep cut short still compares methods; a test waits for its
training. Finished runs are skipped, interrupted ones taken up again by train.py: the same command
goes on. A run that fails does not stop the others. Each prints to OUTPUT/logs. The
environment means what it means to the scripts: DATA, OUTPUT, BACKBONE, SHOTS, SOURCE, CFG, PLUGIN,
LOADEP; with DRY_RUN=1 nothing runs, and what would is printed.

Without a GPU, runs go side by side on one thread each (unless OMP_NUM_THREADS says otherwise):
results do not depend on --jobs.
"""

import argparse
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from anprompt.protocols.environment import Environment, numbers
from anprompt.protocols.methods import Method, all_methods, plugin_method
from anprompt.protocols.plan import PROTOCOLS, RunSpec, check_datasets, plan
from anprompt.sweeps.devices import slots
from anprompt.sweeps.processes import about_locks
from anprompt.sweeps.scheduler import Sweep
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
        help="runs side by side (default: 1 on a GPU; else one a core, at most 4)",
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
    if args.jobs is not None and args.jobs < 1:
        raise UsageError(f"--jobs {args.jobs}: expected 1 or more")
    datasets = list(protocol.datasets if args.datasets is None else args.datasets)
    check_datasets(datasets)
    read = [*datasets, environment.source] if protocol.is_transfer else datasets
    check_datasets(read)
    environment.check_data(read)
    configs = {method.trainer: [environment.config] for method in methods if environment.config}
    for name, names in args.cfg:
        configs[plugin_method(name, environment.plugins).trainer] = names
    runs = plan(args.protocol, methods, datasets, seeds, shots, environment.source, configs=configs)
    return environment.with_backbone(runs)


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
    print(environment.about_backbone(runs[0].backbone), file=sys.stderr, flush=True)
    if environment.is_dry_run:
        return Sweep(runs, environment, options).show()
    places, about = slots(args.jobs)
    print(f"{len(runs)} runs, {about}; logs in {environment.output}/logs", flush=True)
    if warning := about_locks():
        print(warning, flush=True)
    return Sweep(runs, environment, options, places).go()


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
