"""The text part of a step, shared by processes: time and memory."""

import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import clock, synthetic, workload
from benchmarks.processes import Together
from common.ranks import here

_built: dict[str, Any] = {}  # in a process of a group: its trainer


def text_part(work: workload.Workload, folder: Path) -> tuple[float, float, float, list[float]]:
    """Compute all classes' features and the gradients of what is learned, once, with the others.

    Returns:
        Seconds; seconds of processor time; peak MiB of this process; the gradients' norms.
    """
    if not _built:
        _built["trainer"] = workload.build(work, folder)
    trainer, share = _built["trainer"], here().share(work.batch)
    norms: list[float] = []

    def step() -> None:
        with trainer.sharing(share):
            features = trainer.model.text_features()  # (C, E)
        weights = torch.linspace(-1, 1, features.numel()).view_as(features)
        gradients = trainer.gradients(share.weight * (features * weights).sum())
        norms.extend(float(gradient.norm()) for gradient in gradients)

    started = time.process_time()
    seconds = clock.seconds(step, work.device)
    return seconds, time.process_time() - started, clock.peak_memory_mb(work.device), norms


def measure_ranks(
    work: workload.Workload, folder: Path, sizes: list[int], rounds: int
) -> list[dict[str, Any]]:
    """Return a row for each number of processes, each of them with one thread.

    The groups take turns, round by round. Seconds and memory are those of a group's slowest and
    largest process.

    Raises:
        ValueError: the groups' gradients are not the same.
    """
    work = work.with_(threads=1)
    workload.write_weights(folder, work.backbone)
    synthetic.write(folder / "data", work.classes)
    groups = {size: Together(size, str(folder / "cache")) for size in sizes}
    found: dict[int, list[list[tuple]]] = {size: [] for size in sizes}
    for number in range(rounds + 1):  # the first step of a process is slower, and not counted
        for size, group in groups.items():
            found[size].append(group.call(text_part, work, folder))
            slowest = max(seconds for seconds, *_ in found[size][-1])
            print(f"{size} processes {number}/{rounds}: {slowest:.3f} s", file=sys.stderr)
    for group in groups.values():
        group.close()
    rows: list[dict[str, Any]] = []
    for size, rounds_of in found.items():
        norms = zip(rounds_of[-1][0][3], found[sizes[0]][-1][0][3], strict=True)
        if not all(math.isclose(one, other, rel_tol=1e-4) for one, other in norms):
            raise ValueError(f"{size} processes have other gradients than {sizes[0]}")
        wall, cpu, peak = (
            statistics.median(max(one[i] for one in answers) for answers in rounds_of[1:])
            for i in range(3)
        )
        row = {"processes": size, "s": wall, "processor s": cpu, "peak MiB": peak}
        first = rows[0] if rows else row
        ratios = {"times faster": first["s"] / wall, "by processor": first["processor s"] / cpu}
        rows.append(row | ratios)
    return rows
