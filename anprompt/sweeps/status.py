"""What has become of a sweep's runs, from what they left: results, locks and logs."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from anprompt.protocols.environment import Environment
from anprompt.protocols.plan import RunSpec
from anprompt.runs.recorded import RESULTS
from anprompt.sweeps.cluster import Standing
from anprompt.sweeps.processes import is_held, is_on_another_machine, tail
from anprompt.sweeps.scheduler import epoch_in, log_file

LAST_LINES = 3
ALWAYS = ("finished", "running", "stopped", "waiting")


def status_lines(
    runs: Sequence[RunSpec],
    finished: Collection[RunSpec],
    environment: Environment,
    submitted: Mapping[RunSpec, Standing] | None = None,
    refused: Mapping[RunSpec, str] | None = None,
) -> list[str]:
    """Return a line on every run that runs, has stopped (with its last words) or would be refused,
    then the sums.

    A test that has results but not of its training as asked for waits for that.

    Args:
        submitted: where those stand that were given to a cluster.
        refused: those whose folder has another run than is asked for, and why.
    """
    lines: list[str] = []
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for run in runs:
        log = log_file(run, environment)
        has_log = log.is_file()
        standing = (submitted or {}).get(run, Standing(""))
        if run in finished:
            state = "finished"
        elif standing.state == "queued":
            state = "queued"
            reasons[standing.about] += 1
        elif (
            standing.state == "running"
            or has_log
            and is_held(log)
            or is_on_another_machine(run, environment)
        ):
            state = "running"
            epoch = epoch_in(tail(log)) if has_log else ""
            lines.append(f"running  {run}  {epoch}{standing.about}".rstrip())
        elif refused and run in refused:
            state = "refused"
            lines.append(f"refused  {run}: {refused[run]}")
        elif standing.state in ("failed", "stopped"):
            state = standing.state
            file = log if has_log else standing.complaints
            see = f", see {file}" if file and str(file) not in standing.about else ""
            lines += [f"{state}  {run}: {standing.about}{see}", *_last_lines(file)]
        elif has_log and not Path(run.folder(environment.output), RESULTS).is_file():
            state = "stopped"
            lines += [f"stopped  {run}, see {log}", *_last_lines(log)]
        else:
            state = "waiting"
        states[state] += 1
    if reasons:
        listed = ", ".join(f"{count} ({reason})" for reason, count in reasons.most_common())
        lines.append(f"queued   {listed}")
    order = (*ALWAYS[:2], "queued", "failed", "refused", *ALWAYS[2:])
    counts = ", ".join(f"{states[key]} {key}" for key in order if states[key] or key in ALWAYS)
    return [*lines, f"{len(runs)} runs: {counts}"]


def _last_lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    return [f"    {line}" for line in tail(file).strip().splitlines()[-LAST_LINES:]]
