"""Where runs go: the GPUs of this machine, or its cores."""

import ctypes
import os
import re
from importlib import util
from pathlib import Path

from anprompt.sweeps.scheduler import Slot
from common.errors import UsageError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def slots(
    jobs: int | None = None, gpus: str | None = None, per_gpu: int = 1
) -> tuple[list[Slot], str]:
    """Return the places where runs go side by side, and what they are in words.

    On a machine with GPUs every one that is visible takes ``per_gpu`` runs at a time. A CPU takes
    runs on one thread each (``OMP_NUM_THREADS`` names another number): more of them get done than
    one after the other on all cores, and results are the same bit for bit whatever ``jobs`` is.

    Args:
        jobs: how many at most (default: all places; on a CPU one a core, four at most).
        gpus: numbers of the visible GPUs, as ``0-3,6``; "" for none.

    Raises:
        UsageError: a GPU that there is not.
    """
    visible = visible_gpus() if gpus is None or gpus else []
    chosen = visible if gpus is None else [visible[i] for i in _numbers(gpus, len(visible))]
    if chosen:
        # Side by side before any GPU takes a second run.
        places = [Slot(f"GPU {gpu}", {VISIBLE: gpu}) for _ in range(per_gpu) for gpu in chosen]
        places = places[: jobs or len(places)]
        return places, f"{len(places)} at a time on GPU {', '.join(chosen)}"
    threads = os.environ.get("OMP_NUM_THREADS", "")
    n_threads = int(threads) if threads.isdecimal() and int(threads) > 0 else 1
    n_places = jobs or max(1, min(_cores() // n_threads, 4))
    environment = {"OMP_NUM_THREADS": str(n_threads)}
    if gpus == "":
        environment[VISIBLE] = ""
    plural = "s" if n_threads > 1 else ""
    about = f"{n_places} at a time, {n_threads} thread{plural} each"
    return [Slot("", environment)] * n_places, about


def visible_gpus() -> list[str]:
    """Return the GPUs that torch would use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if not torch_has_gpu_support():
        return []
    named = os.environ.get(VISIBLE)
    if named is not None:
        gpus = [name.strip() for name in named.split(",")]
        end = next((i for i, name in enumerate(gpus) if name in ("", "-1")), len(gpus))
        return gpus[:end]
    return [str(number) for number in range(_count_gpus())]


def torch_has_gpu_support() -> bool:
    """Return whether the installed torch is a build for GPUs, without importing it."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).parent / "version.py"
    if not version.is_file():
        return True
    text = version.read_text(encoding="utf-8")
    return bool(re.search(r"^(cuda|hip)\b[^=]*=\s*['\"]", text, flags=re.MULTILINE))


def _count_gpus() -> int:
    """Count NVIDIA's GPUs through its management library, others by asking torch."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1" if os.name == "posix" else "nvml.dll")
        count = ctypes.c_uint()
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0:
            return count.value
    except (OSError, AttributeError):
        pass
    import torch  # takes seconds

    return torch.cuda.device_count()


def _numbers(text: str, count: int) -> list[int]:
    """Return the numbers of ``0-3,6``."""
    found: list[int] = []
    for item in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", item)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if first > last:
            raise UsageError(f"--gpus {text}: expected numbers as 0-3 or 0,2,5")
        if last >= count:
            there = f"GPUs 0 to {count - 1} are visible" if count else "no GPU is visible"
            raise UsageError(f"--gpus {text}: there is no GPU {last}; {there}")
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
