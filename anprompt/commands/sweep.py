"""Run a protocol over methods, data sets, shots and seeds; one line per run, with the time left.

    python -m anprompt sweep base2new --methods zsclip,coop,anprompt --datasets shapes --seeds 1,2,3
    python -m anprompt sweep crossdata --methods all --source caltech101 --targets eurosat,dtd
    python -m anprompt sweep domaingen --methods coop,anprompt
    python -m anprompt sweep fewshot --methods coop --datasets eurosat --shots 1,4,16
    python -m anprompt sweep base2new --plugin mine.py --methods MyMethod --cfg MyMethod=mine.yaml

Runs go seed by seed, so that a sweep cut short still compares methods; a test waits for its
training. Finished runs are skipped, interrupted ones resumed by train.py: the same command goes on.
A run that fails does not stop the others. Each prints to OUTPUT/logs. Before the first one starts,
settings, data sets, weights and the disk are checked, and all problems listed. Environment
variables are those of the scripts: DATA, OUTPUT, BACKBONE, SHOTS, SOURCE, CFG, PLUGIN, LOADEP; with
DRY_RUN=1 nothing runs, and what would is printed.

With --cluster slurm runs are packed into shards of about an hour and submitted, with a copy of the
code as it is committed; --status says how they are doing, and the same command later submits what
is missing unless it waits or runs. docs/SCALING.md says more.

Every visible GPU (CUDA_VISIBLE_DEVICES) takes a run at a time; on several, the longest runs go
first. Without a GPU, runs go side by side on one thread each (unless OMP_NUM_THREADS says
otherwise): results do not depend on --jobs.

exit status: 0 done, 1 some runs failed, 2 bad input, 130 interrupted.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from anprompt.protocols.environment import Environment, numbers
from anprompt.protocols.methods import Method, all_methods, plugin_method
from anprompt.protocols.plan import PROTOCOLS, RunSpec, check_datasets, plan
from anprompt.sweeps import cluster, slurm, snapshot
from anprompt.sweeps.checks import problems, refuse_settings
from anprompt.sweeps.costs import Costs, learn_from_folder
from anprompt.sweeps.devices import slots
from anprompt.sweeps.finished import find_finished
from anprompt.sweeps.interrupts import end_on_signals
from anprompt.sweeps.processes import about_locks
from anprompt.sweeps.scheduler import Sweep
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
    )
    parser.add_argument("protocol", choices=list(PROTOCOLS))
    parser.add_argument(
        "--methods", type=_list, default=["all"], metavar="A,B",
        help="trainers, or what the scripts call them, or all (default)",
    )  # fmt: skip
    parser.add_argument(
        "--datasets", "--targets", type=_list, metavar="A,B",
        help="files of configs/datasets/ (default: CoOp's eleven); for crossdata and "
        "domaingen those tested on (default: the eleven except the source; the four ImageNet "
        "variants)",
    )  # fmt: skip
    parser.add_argument("--seeds", default="1,2,3", metavar="1,2")
    parser.add_argument(
        "--shots", metavar="1,2",
        help="images per class (default: $SHOTS or 16; for fewshot 1,2,4,8,16)",
    )  # fmt: skip
    parser.add_argument(
        "--source", metavar="NAME",
        help="crossdata, domaingen: the data set trained on (default: $SOURCE or imagenet)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, metavar="N",
        help="runs side by side, at most; on a cluster shards (default: what the GPUs take; else "
        "one per core, at most 4)",
    )  # fmt: skip
    parser.add_argument(
        "--gpus", metavar="0-3,6",
        help="which of the visible GPUs to use (default: all; '' for none)",
    )  # fmt: skip
    parser.add_argument(
        "--per-gpu", type=int, default=1, metavar="N",
        help="runs side by side on a GPU: small data sets leave one idle half of the time",
    )  # fmt: skip
    parser.add_argument(
        "--shard", metavar="I/N",
        help="run the I-th of N parts of equal length, one on each machine that shares OUTPUT",
    )  # fmt: skip
    parser.add_argument(
        "--cluster", choices=["slurm"], help="submit to a cluster rather than run here"
    )
    parser.add_argument(
        "--slurm", action="append", default=[], metavar="KEY=VALUE",
        help="a flag of sbatch, such as partition=gpu, mem=32G, time=4:00:00, gpus_per_node=1 (the "
        "default with a torch for GPUs); or setup=COMMAND to run before (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--shard-minutes", type=float, default=60, metavar="M",
        help="how long a shard of a cluster is expected to take (default: 60)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-dirty", action="store_true",
        help="submit the files as they are, even if they are not committed",
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
    datasets = list(protocol.datasets if args.datasets is None else args.datasets)
    check_datasets(datasets)
    read = [*datasets, environment.source] if protocol.is_transfer else datasets
    check_datasets(read)
    environment.check_data(read)
    configs = {method.trainer: [environment.config] for method in methods if environment.config}
    configs |= _configs(args.cfg, methods, environment)
    runs = plan(args.protocol, methods, datasets, seeds, shots, environment.source, configs=configs)
    runs = environment.with_backbone(runs)
    if args.shard:
        if not environment.backbone:
            raise UsageError(
                "--shard: name the backbone, BACKBONE=ViT-B/16 (or small): without it a machine "
                "takes what its own cache has, and the parts would not be of one division"
            )
        # The same division on every machine: what is finished, or a CPU, does not matter.
        runs = shard(runs, args.shard, Costs("gpu").seconds)
    return runs


def _configs(
    given: Sequence[tuple[str, list[str]]], methods: Sequence[Method], environment: Environment
) -> dict[str, list[str]]:
    """Return the configurations that --cfg names, by trainer."""
    trainers = {method.trainer for method in methods}
    found: dict[str, list[str]] = {}
    for name, names in given:
        trainer = plugin_method(name, environment.plugins).trainer
        if trainer not in trainers:
            raise UsageError(f"--cfg {name}={','.join(names)}: {name} is not among --methods")
        known = found.setdefault(trainer, [])
        known += [config for config in names if config not in known]
    return found


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
    asked = _check_places(args)
    runs = runs_for(args)
    environment: Environment = args.environment
    if not runs:
        print(f"--shard {args.shard}: nothing is left for this part")
        return 0
    print(environment.about_backbone(runs[0].backbone), file=sys.stderr, flush=True)
    refused: dict[RunSpec, str] = {}
    finished = find_finished(runs, environment, options, refused)
    missing = [run for run in runs if run not in finished]
    if args.status:
        known = _known(missing, environment)
        print("\n".join(status_lines(runs, finished, environment, known, refused)))
        return 0
    if args.print_commands or environment.is_dry_run:
        refuse_settings(missing, environment, options)
    if args.print_commands:
        print("\n".join(command_lines(missing, environment, options)))
        return 0
    if environment.is_dry_run:
        _show(runs, finished, environment, options)
        return 0
    if args.cluster:
        with cluster.lock(environment):
            return _submit(args, options, runs, missing, asked)
    places, about = slots(args.jobs, args.gpus, args.per_gpu)
    is_gpu = bool(places[0].name)
    costs = Costs("gpu" if is_gpu else "cpu", options)
    print(f"{len(runs)} runs, {about}; logs in {environment.output}/logs", flush=True)
    if missing:
        _prepare(missing, environment, options, costs, len(places))
    sweep = Sweep(
        runs, environment, options,
        finished=finished, slots=places, costs=costs, longest_first=is_gpu and len(places) > 1,
    )  # fmt: skip
    return sweep.go()


def _check_places(args: argparse.Namespace) -> slurm.Options:
    """Return what is asked of a cluster; refuse places that runs cannot go to.

    Raises:
        UsageError: so.
    """
    if args.slurm and not args.cluster:
        raise UsageError("--slurm says how to submit: it stands with --cluster slurm")
    asked = slurm.Options.read(args.slurm)
    if not 0.1 <= args.shard_minutes <= 100_000:
        raise UsageError(f"--shard-minutes {args.shard_minutes:g}: expected 0.1 to 100000")
    for option, given in (("--jobs", args.jobs), ("--per-gpu", args.per_gpu)):
        if given is not None and given < 1:
            raise UsageError(f"{option} {given}: expected 1 or more")
    if args.cluster and args.gpus is not None:
        raise UsageError("--gpus chooses among this machine's; for SLURM: --slurm gpus_per_node=N")
    if not (args.cluster or args.status or args.print_commands):
        slots(args.jobs, args.gpus, args.per_gpu)
    return asked


def _known(runs: Sequence[RunSpec], environment: Environment) -> dict[RunSpec, cluster.Standing]:
    """Return where runs stand with a cluster, as far as that can be told here."""
    try:
        return cluster.standings(runs, environment)
    except UsageError as error:
        print(f"no word from a cluster: {error}", file=sys.stderr)
        return {}


def _submit(
    args: argparse.Namespace,
    options: Sequence[str],
    runs: Sequence[RunSpec],
    missing: Sequence[RunSpec],
    asked: slurm.Options,
) -> int:
    """Give a cluster what it does not have yet."""
    environment: Environment = args.environment
    slurm.check_there()
    code = snapshot.check_committed(args.allow_dirty)
    known = cluster.standings(missing, environment, slurm.settled_tasks)
    new, held = cluster.unsubmitted(missing, known)
    n_alive = sum(standing.is_alive for standing in known.values())
    print(f"{len(runs)} runs: {len(runs) - len(missing)} finished, {n_alive} in the queue, "
          f"{len(new) + held} to submit", flush=True)  # fmt: skip
    if held:
        print(f"{held} tests wait for a training in the queue: give this command again after it")
    if new:
        costs = Costs("gpu" if asked.n_gpus else "cpu", options)
        _prepare(new, environment, options, costs, args.jobs)
        print(cluster.submit(
            new, environment, options,
            options=asked, costs=costs, shard_minutes=args.shard_minutes, jobs=args.jobs,
            per_gpu=args.per_gpu, code=code,
        ))  # fmt: skip
    return 0


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
    n_places: int | None,
) -> None:
    """Check what the missing runs need, and say what they are expected to take.

    Args:
        n_places: where they go side by side; None where that is not known.

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
    hours = costs.total(missing, n_places or 1) / 3600
    memory = f", {costs.gigabytes(missing):.0f} GB of a GPU" if costs.device == "gpu" else ""
    took = f"{hours:.1f} h" if hours >= 1 else f"{max(hours * 60, 1):.0f} min"
    took += "" if n_places else " one after another"
    print(f"{len(missing)} to run: about {took}{memory} ({costs.about()})", flush=True)
    if warning := about_locks():
        print(warning, flush=True)
