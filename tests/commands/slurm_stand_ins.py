"""Stand-ins for SLURM's commands and for train.py, and what the tests of sweeps on them share.

The shards are run as SLURM would: the scripts that sbatch got, task by task.
"""

import os
import subprocess
from pathlib import Path

from anprompt.__main__ import main
from anprompt.sweeps import batches

SBATCH = """#!/usr/bin/env bash
[ -z "${REFUSAL:-}" ] || { echo "sbatch: error: $REFUSAL" >&2; exit 1; }
number=$(($(ls "$JOBS" | wc -l) + 1))
[ "$number" -le "${MOST:-99}" ] || { echo "sbatch: error: too many jobs" >&2; exit 1; }
cp "${!#}" "$JOBS/$number.sh"
echo "Submitted batch job $number"
"""
SRUN = """#!/usr/bin/env bash
while [ "${1#--}" != "$1" ]; do
  case "$1" in --output|--error) shift ;; esac
  shift
done
exec "$@"
"""
SQUEUE = """#!/usr/bin/env bash
[ -z "${NO_CONTROLLER:-}" ] || { echo "squeue: error: Unable to contact controller" >&2; exit 1; }
cat "$QUEUE"
"""
SCONTROL = """#!/usr/bin/env bash
[ -z "${NO_CONTROLLER:-}" ] || { echo "scontrol: error: Unable to contact controller" >&2; exit 1; }
echo "MaxArraySize            = ${MAX_ARRAY:-1001}"
"""
TRAIN = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--output-dir") + 1])
with open(os.environ["CALLS"], "a") as file:
    print(folder, file=file)
if os.environ.get("FAIL", "nothing") in str(folder):
    print("one line")
    sys.exit("the reason")
folder.mkdir(parents=True, exist_ok=True)
(folder / "results.json").write_text(json.dumps({"finished": True, "accuracy": 84.25}))
"""
COMMAND = ["base2new", "--methods", "zsclip,coop", "--datasets", "shapes", "--cluster", "slurm"]


def submit(*arguments: str) -> int:
    return main(["sweep", *COMMAND, "--seeds", "1,2", "--allow-dirty", *arguments])


def only_batch(cluster: Path) -> batches.Batch:
    (batch,) = batches.read_all(cluster / "an output")
    return batch


def run_tasks(cluster: Path, *, job: int = 1, tasks: tuple[int, ...] = (0,)) -> list[str]:
    """Run tasks of a job as SLURM would; return what train.py was called for."""
    (cluster / "calls").write_text("")
    for task in tasks:
        script = (cluster / f"jobs/{job}.sh").read_text()
        array = {"SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(task)}
        variables = {**os.environ, "SLURM_JOB_ID": str(job), "CUDA_VISIBLE_DEVICES": "",
                     **(array if "--array" in script else {})}  # fmt: skip
        subprocess.run(["bash", "-c", script], env=variables, cwd="/", capture_output=True)
    called = (cluster / "calls").read_text().splitlines()
    return ["/".join(Path(line).parts[-6:-2]) + f"/{Path(line).name}" for line in called]


def set_queue(cluster: Path, *tasks: tuple[int, str, str]) -> None:
    """Put shards of the only batch into the queue, with their states and reasons."""
    batch = only_batch(cluster)
    lines = []
    for shard, state, reason in tasks:
        name, index = batch.task_of(shard)
        lines.append(f"{name}|{index if batch.n_shards > 1 else 'N/A'}|{state}|{reason}\n")
    (cluster / "queue").write_text("".join(lines))


def refused(capsys, *arguments: str) -> str:
    """The one line with which a sweep is refused."""
    capsys.readouterr()
    assert submit(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("anprompt sweep: error: ") and len(lines) <= 2
    return lines[-1].removeprefix("anprompt sweep: error: ")
