"""Which runs are finished, without starting any."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

from anprompt.protocols.environment import Environment
from anprompt.protocols.plan import RunSpec
from anprompt.runs.arguments import make_parser
from anprompt.runs.folder import finished_accuracy, read_results


def find_finished(
    runs: Sequence[RunSpec], environment: Environment, options: Sequence[str] = ()
) -> dict[RunSpec, dict[str, Any]]:
    """Return the results of the runs that are finished, by train.py's own rule.

    A test is finished only where its training is, if that is among ``runs``. One with which
    something is wrong is not: starting it says what.
    """
    planned = set(runs)
    known: dict = {}  # of the data, which many runs share
    found: dict[RunSpec, dict[str, Any]] = {}
    for run in runs:
        if run.needs in planned and run.needs not in found:
            continue
        try:
            results = read_results(run.folder(environment.output))
        except ValueError:
            continue
        if results is not None and _is_finished(environment.argv(run, options), known):
            found[run] = results
    return found


def _is_finished(argv: list[str], known: dict) -> bool:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            args = make_parser().parse_args(argv)
        from anprompt.runs.config import build_cfg

        return finished_accuracy(build_cfg(args), known) is not None
    except (ValueError, OSError, SystemExit):
        return False
