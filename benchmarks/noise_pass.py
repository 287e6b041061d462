"""Processor seconds of an evaluation under noise: all models in one call, a call for each, and an
earlier version's.

Models are trained for one epoch on one image a class: what noise costs does not depend on it. An
earlier version is a checkout, which trains models of its own.

    python -m benchmarks.noise_pass --data DATA --datasets eurosat
    python -m benchmarks.noise_pass --datasets shapes --methods zsclip,coop,maple,anprompt \\
      --seeds 1,2,3 --noise all --images 72 --before CHECKOUT
"""

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

from benchmarks import measure
from common.cli import CommandParser

TWELVE = "zsclip,zsclip2,coop,cocoop,kgcoop,vpt,ivlp,maple,promptsrc,mmrl,mmrlpp,anprompt"
HERE = Path(__file__).resolve().parents[1]


def command(checkout: Path, name: str, earlier: str) -> list[str]:
    """Return how a checkout is asked for a command; before it was one program, it had a file."""
    if (checkout / "anprompt").is_dir():
        return [sys.executable, "-m", "anprompt", name]
    return [sys.executable, earlier]


def processor_seconds(checkout: Path, arguments: list[str], **variables: str) -> float:
    """Run a program in a checkout, on one thread and without kept features; return its time.

    Raises:
        RuntimeError: it failed; its last lines.
    """
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1", "ANPROMPT_CACHE": ""}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        arguments, cwd=checkout, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}:\n{done.stdout[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def trained(checkout: Path, output: Path, args: argparse.Namespace) -> list[Path]:
    """Train what is not there; return the folders of the trainings."""
    call = command(checkout, "sweep", "tools/sweep.py") + ["base2new"]
    for name in ("methods", "datasets", "seeds"):
        call += [f"--{name}", getattr(args, name)]
    call += ["--shots", "1", "--", "OPTIM.MAX_EPOCH", "1"]
    variables = {"OUTPUT": str(output), "BACKBONE": args.backbone, "DATA": args.data}
    processor_seconds(checkout, call, **variables)
    folders = (output / "base2new/train_base").rglob("results.json")
    return sorted(path.parent for path in folders)


def under_noise(checkout: Path, runs: list[Path], args: argparse.Namespace, at_once: bool) -> float:
    """Return the processor seconds of all runs under noise, in one call or in one each."""
    options = ["--noise", args.noise, "--severities", args.severities, "--redo"]
    options += ["--seeds", "1", "--images", str(args.images)]
    call = command(checkout, "robustness", "tools/robustness.py") + ["--model-dir"]
    parts = [runs] if at_once else [[run] for run in runs]
    return sum(processor_seconds(checkout, [*call, *map(str, part), *options]) for part in parts)


def main(arguments: list[str] | None = None) -> None:
    parser = CommandParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--datasets", default="shapes", help="of configs/datasets (default shapes)")
    parser.add_argument("--methods", default=TWELVE, help="default: the first twelve trainers")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--data", default=os.environ.get("DATA", "data"), help="default $DATA")
    parser.add_argument("--backbone", default="small")
    parser.add_argument("--noise", default="text,image,learned")
    parser.add_argument("--severities", default="1,3,5")
    parser.add_argument("--images", type=int, default=200, help="of each half of the classes")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--scratch", help="keep models here")
    parser.add_argument("--json", help="write the figures to this file, too")
    args = parser.parse_args(arguments)
    with measure.scratch(args.scratch) as folder:
        checkouts = {"now": HERE} | ({"before": args.before.resolve()} if args.before else {})
        runs = {name: trained(at, folder / name, args) for name, at in checkouts.items()}
        actions = {
            "one call": lambda: under_noise(HERE, runs["now"], args, at_once=True),
            "a call for each": lambda: under_noise(HERE, runs["now"], args, at_once=False),
        }
        if args.before:
            before = checkouts["before"]
            actions["one call, before"] = lambda: under_noise(before, runs["before"], args, True)
        times = measure.interleaved(actions, args.rounds, args.datasets)
    now = measure.median(times["one call"])
    rows = [
        {
            "models": len(runs["now"]),
            "noise": args.noise,
            "images": args.images,
            "evaluation": name,
            "processor s": measure.median(own),
            "times one call": measure.median(own) / now,
        }
        for name, own in times.items()
    ]
    measure.report(rows, {"seconds": times}, args.json)


if __name__ == "__main__":
    main()
