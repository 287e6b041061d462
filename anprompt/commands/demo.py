"""Show the project at work, without any data of yours.

Zero-shot CLIP, CoOp, MaPLe and ANPrompt learn half of the classes of Shapes from 16 images each and
are tested on both halves, on the small CLIP that comes with this repository; then once more under
noise in text and images.

    python -m anprompt demo            three seeds, all kinds of noise
    python -m anprompt demo --quick    one seed, few kinds

Run again, it goes on where it was stopped. It ends with a table, also in OUTPUT/results.md, and a
page to look at, OUTPUT/report.html; each run's log is in OUTPUT/logs, the figures under noise in
OUTPUT/robustness.txt. OUTPUT is output_demo in the repository unless the environment names another
folder.
"""

import os
import subprocess
import sys
from pathlib import Path

from anprompt.commands import report, sweep, table
from anprompt.protocols.plan import RunSpec
from common.cli import CommandParser

METHODS = ["ZeroshotCLIP", "CoOp", "MaPLe", "ANPrompt"]


def main(argv: list[str]) -> int:
    """Run ``anprompt demo``; returns the exit status."""
    parser = CommandParser(
        prog="anprompt demo",
        description=__doc__,
    )
    parser.add_argument("--quick", action="store_true", help="one seed, few kinds of noise")
    quick = parser.parse_args(argv).quick
    # The demo is the same everywhere, whatever a shell has set for other scripts.
    for name in ("CFG", "SHOTS", "LOADEP", "PLUGIN"):
        os.environ.pop(name, None)
    os.environ["BACKBONE"] = "small"
    # Published settings for all; of CoOp's configurations the one of 50 epochs, where 200 would
    # take as long as everything else together.
    flags = ["base2new", "--methods", ",".join(METHODS), "--datasets", "shapes"]
    flags += ["--seeds", "1" if quick else "1,2,3", "--cfg", "CoOp=vit_b16_ep50_ctxv1"]
    args, options = sweep.parse(flags, sweep.make_parser("demo"), output="output_demo")
    output = args.environment.output
    _say(
        f"Base to new on Shapes, small CLIP, 16 images a class, seeds {args.seeds}. "
        f"Results go to {output}."
    )
    status = sweep.run(args, options)
    if status or args.environment.is_dry_run:
        return status
    _say("")
    listed = ["--methods", ",".join(METHODS), "--all-rules", "--output", f"{output}/results.md"]
    table.main([output, *listed])
    _say("")
    _say("The same models under noise, on 72 test images of either half.")
    noise = "char,embed,gaussian_noise,blur,both" if quick else "all"
    status = _robustness(sweep.runs_for(args), output, noise)
    if status:
        return status
    _say("")
    status = report.main([output, "--output", f"{output}/report.html"])
    _say("")
    _say(f"The table is in {output}/results.md, each run in its results.json below it.")
    _say(f"Open the report in a browser: {Path(output).resolve()}/report.html")
    return status


def _robustness(runs: list[RunSpec], output: str, noise: str) -> int:
    """Evaluate what was trained under noise; returns the exit status.

    A few images, the same for --quick and not, so that one goes on from the other: enough to see
    what noise does, not to tell methods apart.
    """
    trainings = [run for run in runs if run.stage == "train"]
    trainings.sort(key=lambda run: METHODS.index(run.method))
    trained = [run.folder(output) for run in trainings]
    command = [sys.executable, "-m", "anprompt", "robustness", "--model-dir", *trained]
    command += ["--noise", noise, "--severities", "1,3,5", "--seeds", "1", "--images", "72"]
    # One thread: batches this small gain little from more, and lose much where others use the
    # machine. In a process of its own, because this one may run on more.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with open(f"{output}/robustness.txt", "w", encoding="utf-8") as file:
        return subprocess.run(command, env=environment, stdout=file).returncode


def _say(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
