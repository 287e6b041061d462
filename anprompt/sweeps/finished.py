"""Which runs are finished, without starting any."""

import contextlib
import io

from anprompt.runs.arguments import make_parser
from anprompt.runs.folder import finished_accuracy, read_results


def accuracy_of_finished(argv: list[str]) -> float | None:
    """Return the accuracy in % of a run that is finished, by train.py's own rule; else None.

    None also where something is wrong with the run: starting it says what.

    Args:
        argv: of train.py.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            args = make_parser().parse_args(argv)
        if read_results(args.output_dir) is None:
            return None
        from anprompt.runs.config import build_cfg  # takes seconds, once

        return finished_accuracy(build_cfg(args))
    except (ValueError, OSError, SystemExit):
        return None
