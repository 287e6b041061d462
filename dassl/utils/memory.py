"""Peak memory."""

import sys

import torch


def process_peak_memory_mb(device: torch.device) -> float:
    """Return the highest memory use of this process so far (MiB).

    On a GPU that of its tensors, on a CPU all of the process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
