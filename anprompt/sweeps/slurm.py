"""SLURM: what it is asked, what it is given, and what its refusals mean.

Jobs are submitted by submitit, one array for as many shards as the site allows.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anprompt.sweeps.batches import Batch
from anprompt.sweeps.devices import torch_has_gpu_support
from anprompt.sweeps.shard_job import run_shard
from common.errors import UsageError
from common.late_import import import_late

PATIENCE = 60  # seconds until a command of SLURM is given up
ENDING_SECONDS = 75  # SLURM's default KillWait is 30
LOOK_SECONDS = 1.0
USUAL_ARRAY = 1001  # SLURM's default MaxArraySize
TIMEOUTS = 20  # how often a shard may reach its time limit; every time it goes on
OURS = (
    "array", "chdir", "dependency", "error", "job_name", "nodes", "ntasks", "ntasks_per_node",
    "open_mode", "output", "parsable", "signal", "wait", "wrap",
)  # fmt: skip
GPU_KEYS = ("gpus", "gpus_per_node", "gpus_per_socket", "gpus_per_task", "gres")


@dataclass(frozen=True)
class Task:
    """A shard in SLURM's queue.

    Attributes:
        state: as squeue says it, PENDING or RUNNING mostly.
        reason: why it waits.
    """

    state: str
    reason: str


@dataclass(frozen=True)
class Options:
    """What ``--slurm`` says.

    Attributes:
        flags: sbatch's long flags, ``_`` for ``-``; True for one without a value.
        setup: lines of shell before a shard starts.
        minutes: the time limit of a shard; None where it is to follow from the runs.
    """

    flags: Mapping[str, Any]
    setup: Sequence[str] = ()
    minutes: int | None = None

    @classmethod
    def read(cls, given: Sequence[str]) -> "Options":
        """Read ``KEY=VALUE`` items.

        Where none asks for GPUs, and torch is a build for them, a shard gets one.

        Raises:
            UsageError: an item is none, or says what the sweep itself decides.
        """
        flags: dict[str, Any] = {}
        setup, minutes = [], None
        for item in given:
            key, equals, value = item.partition("=")
            key = key.strip().lstrip("-").replace("-", "_")
            if not re.fullmatch(r"[a-z][a-z0-9_]*", key) or "\n" in value:
                raise UsageError(f"--slurm {item}: expected KEY=VALUE, as partition=gpu")
            if key in OURS:
                raise UsageError(f"--slurm {item}: the sweep itself decides on {key}")
            if key == "setup":
                setup.append(value)
            elif key in ("time", "time_min"):
                minutes = _minutes(value, item)
            else:
                flags[key] = value if equals else True
        if not any(key in flags for key in GPU_KEYS) and torch_has_gpu_support():
            flags["gpus_per_node"] = "1"
        return cls(
            {key: flags[key] for key in flags if not _is_none(key, flags[key])}, setup, minutes
        )

    @property
    def n_gpus(self) -> int:
        """How many GPUs a shard gets; 0 for a CPU."""
        asked = [str(self.flags[key]) for key in GPU_KEYS if key in self.flags]
        counts = [int(match[1]) for text in asked if (match := re.search(r"(\d+)$", text))]
        return max(counts, default=1 if asked else 0)


def _is_none(key: str, value: Any) -> bool:
    """Return whether a flag asks for no GPU, which not every site lets one say."""
    return key in GPU_KEYS and value in ("0", "none", "")


def _minutes(text: str, item: str) -> int:
    """Return minutes of a time as SLURM writes it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not match or len(text) > 20:
        raise UsageError(f"--slurm {item}: expected minutes, H:MM:SS or D-HH:MM:SS")
    days, *parts = (int(part) if part is not None else None for part in match.groups())
    first, second, third = parts
    if days is not None:
        seconds = days * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    elif third is not None:
        seconds = (first or 0) * 3600 + (second or 0) * 60 + third
    else:
        seconds = (first or 0) * 60 + (second or 0)
    if not 60 <= seconds <= 366 * 86400:
        raise UsageError(f"--slurm {item}: expected from one minute to a year")
    return seconds // 60


def check_there() -> None:
    """Refuse a machine that cannot submit.

    Raises:
        UsageError: SLURM's commands or submitit are missing; says how to get it.
    """
    for command in ("sbatch", "srun", "squeue", "scontrol"):
        if shutil.which(command) is None:
            raise UsageError(
                f"no {command} on this machine: log in where jobs are submitted, or give "
                "--print-commands to another scheduler"
            )
    try:
        import_late("submitit")
    except ImportError as error:
        raise UsageError(
            f"--cluster slurm takes submitit ({error}): pip install -r requirements-slurm.txt"
        ) from None


def _ask(*command: str) -> str:
    """Return what a command of SLURM prints.

    Raises:
        UsageError: it fails, say because the controller is not reachable.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UsageError(f"{command[0]} does not answer; is SLURM's controller up?") from None
    except FileNotFoundError:
        raise UsageError(f"no {command[0]} on this machine") from None
    if done.returncode:
        raise UsageError(_refusal(command[0], done.stderr or done.stdout))
    return done.stdout


def _refusal(command: str, said: str) -> str:
    lines = [re.sub(r"^\w+: (error: )?", "", line.strip()) for line in said.strip().splitlines()]
    told = "; ".join(dict.fromkeys(line for line in lines if line))
    return f"{command} refuses: {told or 'without a word'}"


def array_limit() -> int:
    """Return how many shards an array may have here.

    Raises:
        UsageError: the controller is not reachable.
    """
    found = re.search(
        r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.MULTILINE
    )
    return max(int(found[1]) if found else USUAL_ARRAY, 1)


def tasks(batches: Collection[Batch]) -> dict[tuple[str, int], Task]:
    """Return what is in the queue of some batches, by the job's name and the index in its array.

    Raises:
        UsageError: the controller is not reachable.
    """
    names = [f"{batch.name}-{array}" for batch in batches for array, _ in batch.arrays()]
    found: dict[tuple[str, int], Task] = {}
    for first in range(0, len(names), 200):
        printed = _ask(
            "squeue", "--noheader", "--array", f"--name={','.join(names[first : first + 200])}",
            "--format=%j|%K|%T|%r",
        )  # fmt: skip
        for line in printed.splitlines():
            name, index, state, reason = [*line.strip().split("|", 3), "", "", ""][:4]
            found[name, int(index) if index.isdecimal() else 0] = Task(state, reason)
    return found


def settled_tasks(batches: Collection[Batch]) -> dict[tuple[str, int], Task]:
    """Return `tasks` once none is just ending: SLURM may start it again, or may not."""
    began = time.monotonic()
    is_said = False
    while True:
        found = tasks(batches)
        ending = sum(task.state == "COMPLETING" for task in found.values())
        if not ending or time.monotonic() - began > ENDING_SECONDS:
            return found
        if not is_said:
            print(f"{ending} shards are just ending; waiting for that", flush=True)
            is_said = True
        time.sleep(LOOK_SECONDS)


def submit(batch: Batch, options: Options, jobs: int | None, minutes: int) -> list[str]:
    """Submit a batch, and return the numbers of its jobs.

    Args:
        jobs: shards that run side by side, at most.
        minutes: the time limit of a shard, where ``options`` has none.

    Raises:
        UsageError: SLURM refuses; arrays that it has taken before stay, and that is said.
    """
    submitit = import_late("submitit")
    arrays = list(batch.arrays())
    copy = shlex.quote(batch.content["snapshot"])
    flags = dict(options.flags)
    own = {"cpus_per_task": int(flags.pop("cpus_per_task"))} if _has_cpus(flags) else {}
    submitted: list[str] = []
    for array, shards in arrays:
        with _outside_of_jobs(), contextlib.redirect_stderr(io.StringIO()):
            executor = submitit.SlurmExecutor(batch.folder / str(array), max_num_timeout=TIMEOUTS)
            if jobs:
                own["array_parallelism"] = max(jobs // len(arrays), 1)
            executor.update_parameters(
                job_name=f"{batch.name}-{array}",
                time=options.minutes or minutes,
                # Python looks for modules where it is started, then in PYTHONPATH.
                setup=[*options.setup, f"cd {copy}", f"export PYTHONPATH={copy}"],
                additional_parameters={"requeue": True, **_dashed(flags)},
                **own,
            )
            arguments = [str(batch.folder)] * len(shards), list(map(str, shards))
            try:
                found = executor.map_array(run_shard, *arguments)
            except RuntimeError as error:  # submitit's own, with what sbatch says
                told = _refusal("sbatch", str(error))
                before = f" (submitted before: {', '.join(submitted)})" if submitted else ""
                raise UsageError(told + before) from None
        submitted.append(found[0].job_id.split("_")[0])
    return submitted


def _has_cpus(flags: Mapping[str, Any]) -> bool:
    """Return whether flags name CPUs of a task, which srun has to be told as well."""
    return str(flags.get("cpus_per_task", "")).isdecimal()


def _dashed(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("_", "-"): value for key, value in flags.items()}


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of a job in which this may run: its jobs would inherit that one's size."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    hidden = [key for key in os.environ if key.startswith(("SLURM_", "SLURMD_", "SRUN_"))]
    kept = {key: os.environ.pop(key) for key in hidden if key != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(kept)
