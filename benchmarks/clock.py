"""Time and memory of this process."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def seconds(action: Callable[[], Any], device: str, cpu_time: bool = False) -> float:
    """How long ``action`` takes, what it left to a GPU included.

    Args:
        cpu_time: count this process's processor time, which others on a busy machine do not add to.
    """
    now = time.process_time if cpu_time else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    started = now()
    action()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - started


def peak_memory_mb(device: str) -> float:
    """Highest memory use of this process so far (MiB): tensors on a GPU, all of it on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    with contextlib.suppress(OSError):
        # Unlike getrusage's figure this one does not start from the parent process's.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    from dassl.utils.memory import process_peak_memory_mb

    return process_peak_memory_mb(torch.device(device))
