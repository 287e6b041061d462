"""What a run would do and whether it is finished, without starting it."""

import shlex
import subprocess

from anprompt.runs.arguments import make_parser
from anprompt.runs.folder import finished_accuracy, read_results


def train_command(command: list[str], environment: dict[str, str]) -> str:
    """The command of train.py, as a shell takes it, that a protocol's script would run.

    Args:
        command: the script with its arguments, for one run.
        environment: of the script.

    Raises:
        ValueError: the script refuses, saying why, or would run train.py not once.
    """
    shown = subprocess.run(
        command, env={**environment, "DRY_RUN": "1"}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True,
    )  # fmt: skip
    if shown.returncode:
        raise ValueError(f"status {shown.returncode}: {shown.stderr.strip()}")
    calls = shown.stdout.splitlines()
    if len(calls) != 1:
        raise ValueError(f"expected one run, {shlex.join(command)} makes {len(calls)}")
    return calls[0].strip()


def accuracy_of_finished(command: list[str], environment: dict[str, str]) -> float | None:
    """Accuracy in % of a run that is finished, by train.py's own rule; else None.

    None also where something is wrong with the run: starting it says what. A table of hundreds is
    taken up again at once, since nothing is started for those that are finished.

    Args:
        command: a protocol's script with its arguments, for one run.
        environment: of the script.
    """
    try:
        _, _, *arguments = shlex.split(train_command(command, environment))  # python, train.py, ...
        args = make_parser().parse_args(arguments)
        if read_results(args.output_dir) is None:
            return None
        from anprompt.runs.config import build_cfg  # takes seconds, once

        return finished_accuracy(build_cfg(args))
    except (ValueError, OSError, SystemExit):
        return None
