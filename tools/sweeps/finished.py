"""Whether a run is finished, without starting it: a table of hundreds is taken up again at once."""

import shlex
import subprocess

from tools.arguments import make_parser
from tools.runs import finished_accuracy, read_results


def accuracy_of_finished(command: list[str], environment: dict[str, str]) -> float | None:
    """Accuracy in % of a run that is finished, by train.py's own rule; else None.

    None also where something is wrong with the run: starting it says what.

    Args:
        command: a protocol's script with its arguments, for one run.
        environment: of the script.
    """
    shown = subprocess.run(
        command, env={**environment, "DRY_RUN": "1"}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True,
    )  # fmt: skip
    calls = shown.stdout.splitlines()
    if shown.returncode or len(calls) != 1:
        return None
    try:
        _, _, *arguments = shlex.split(calls[0])  # python, train.py and what follows
        args = make_parser().parse_args(arguments)
        if read_results(args.output_dir) is None:
            return None
        from tools.config import build_cfg  # takes seconds, once

        return finished_accuracy(build_cfg(args))
    except (ValueError, OSError, SystemExit):
        return None
