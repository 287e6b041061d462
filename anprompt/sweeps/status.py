"""What has become of a sweep's runs, from what they left: results, locks and logs."""

from collections import Counter
from collections.abc import Collection, Sequence

from anprompt.protocols.environment import Environment
from anprompt.protocols.plan import RunSpec
from anprompt.sweeps.processes import is_held, tail
from anprompt.sweeps.scheduler import epoch_in, log_file

LAST_LINES = 3


def status_lines(
    runs: Sequence[RunSpec], finished: Collection[RunSpec], environment: Environment
) -> list[str]:
    """Return a line on every run that runs or has stopped (with its last words), then the sums."""
    lines: list[str] = []
    states: Counter[str] = Counter()
    for run in runs:
        log = log_file(run, environment)
        if run in finished:
            states["finished"] += 1
        elif not log.is_file():
            states["waiting"] += 1
        elif is_held(log):
            states["running"] += 1
            lines.append(f"running  {run}  {epoch_in(tail(log))}".rstrip())
        else:
            states["stopped"] += 1
            lines.append(f"stopped  {run}, see {log}")
            lines += [f"    {line}" for line in tail(log).strip().splitlines()[-LAST_LINES:]]
    order = ("finished", "running", "stopped", "waiting")
    counts = ", ".join(f"{states[state]} {state}" for state in order)
    return [*lines, f"{len(runs)} runs: {counts}"]
