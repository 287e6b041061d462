"""Kill trainings at random moments, take them up again, and compare with undisturbed ones.

A training dies by SIGKILL, one to four times, either after a random time or at a random change of
the file system (a file that is synced, renamed or removed), just before or just after it. The same
command then ends it. All checkpoints must equal those of a training that nobody disturbed, bit for
bit, with the same files in the folder and the same results::

    python tests/faults/kills.py --runs 100

Everything is seeded; one process has PyTorch loaded and forks the trainings.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

METHODS = {
    "ANPrompt": "vit_b16",
    "CoOp": "vit_b16_ep50_ctxv1",
    "PromptSRC": "vit_b16_c2_ep20_batch4_4+4ctx",
    "CoCoOp": "vit_b16_c4_ep10_batch1_ctxv1",
}
OPTIONS = ["OPTIM.MAX_EPOCH", "3", "DATALOADER.NUM_WORKERS", "0", "DATASET.NUM_SHOTS", "4"]
OPTIONS += ["DATALOADER.TRAIN_X.BATCH_SIZE", "8", "DATASET.SUBSAMPLE_CLASSES", "base"]
BEST = ["TEST.FINAL_MODEL", "best_val"]

# Depend on the clock or the machine's state.
MEASURED = ("train_seconds", "peak_memory_mb")
UNLIKE = ("code", "date", "test_seconds", "command", "config", *MEASURED)


def argv(data: Path, clip: Path, method: str, output: Path, more: list[str]) -> list[str]:
    """Return train.py's arguments."""
    return [
        *("--root", str(data), "--seed", "1", "--trainer", method, "--backbone", str(clip)),
        *("--dataset-config-file", str(ROOT / "configs/datasets/eurosat.yaml")),
        *("--config-file", str(ROOT / f"configs/trainers/{method}/{METHODS[method]}.yaml")),
        *("--output-dir", str(output), *OPTIONS, *more),
    ]


class Killer:
    """Kills this process at the ``number``-th change of the file system."""

    def __init__(self, number: int, after: bool):
        self.left, self.after = number, after
        for name in ("replace", "fsync", "remove"):
            setattr(os, name, self.counted(getattr(os, name)))

    def counted(self, function):
        def call(*args, **kwargs):
            self.left -= 1
            if self.left == 0 and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def train(arguments: list[str], log: Path, changes: int = 0, after: bool = False) -> int:
    """Fork a training; returns its process id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if changes:
            Killer(changes, after)
        import train as command

        status = command.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(process: int, seconds: float | None = None) -> int | None:
    """Wait for a process, at most some time; returns its status, None if it still runs."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, 0 if end is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() > end:
            return None
        time.sleep(0.002)


def state(folder: Path) -> dict:
    """Return what a run left, but for what depends on the clock."""
    import torch

    from dassl.utils.integrity import content_digest

    files = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.startswith("tensorboard/"):
            continue
        files[name] = ""
        if "model" in path.name and "tar" in path.name:
            content = torch.load(path, weights_only=True)
            del content["digest"]
            for key in MEASURED:
                del content["meta"][key]
            files[name] = content_digest(content)
        elif path.suffix == ".csv":
            files[name] = path.read_text()
    results = json.loads((folder / "results.json").read_text())
    return {"files": files} | {key: x for key, x in results.items() if key not in UNLIKE}


def disturb(rng: random.Random, arguments: list[str], log: Path, seconds: float) -> int:
    """Kill a training some times; returns how often it really died."""
    deaths = 0
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.5:
            process = train(arguments, log, rng.randint(1, 40), rng.random() < 0.5)
            status = ended(process)
        else:
            process = train(arguments, log)
            status = ended(process, rng.uniform(0, seconds))
            if status is None:
                os.kill(process, signal.SIGKILL)
                status = ended(process)
        deaths += status == -signal.SIGKILL
    return deaths


def differences(one: dict, other: dict) -> list[str]:
    """Return what differs between two states."""
    found = [key for key in {*one, *other} - {"files"} if one.get(key) != other.get(key)]
    files = {*one["files"], *other["files"]}
    return sorted(found) + sorted(
        name for name in files if one["files"].get(name) != other["files"].get(name)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder to work in")
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp())
    os.environ["ANPROMPT_CACHE"] = str(work / "cache")

    import inputs
    import torch

    import common.torchvision_compat  # noqa: F401
    import train as _  # noqa: F401
    import trainers  # noqa: F401

    torch.set_num_threads(1)
    data, clip = work / "data", work / "tiny.pt"
    if not clip.is_file():
        inputs.make_fake_eurosat(str(data))
        torch.save(inputs.random_clip_state_dict("tiny"), clip)
    rng = random.Random(args.seed)
    counts: Counter = Counter()
    undisturbed: dict = {}
    for number in range(args.runs):
        method = list(METHODS)[number % len(METHODS)]
        more = BEST if number // len(METHODS) % 3 == 2 else []
        key = method, bool(more)
        log = work / "log.txt"
        if key not in undisturbed:
            output = work / f"undisturbed_{method}_{len(more)}"
            started = time.monotonic()
            status = ended(train(argv(data, clip, method, output, more), log))
            assert status == 0, log.read_text()[-3000:]
            undisturbed[key] = state(output), time.monotonic() - started
        expected, seconds = undisturbed[key]
        output = work / f"killed_{number}"
        arguments = argv(data, clip, method, output, more)
        deaths = disturb(rng, arguments, log, seconds)
        status = ended(train(arguments, log))
        assert status == 0, (output, log.read_text()[-3000:])
        if "Finished already" in log.read_text()[-500:]:
            # Killed after its results were written: nothing is written to a finished run, and the
            # claim of the dead (common.claim) stays until somebody wants the folder.
            (output / ".lock.host").unlink(missing_ok=True)
        found = differences(expected, state(output))
        counts.update(runs=1, deaths=deaths, identical=not found)
        if found:
            print(f"{output} ({method}, {deaths} kills): {', '.join(found)}", flush=True)
    print(json.dumps(counts))
    return 0 if counts["identical"] == args.runs else 1


if __name__ == "__main__":
    sys.exit(main())
