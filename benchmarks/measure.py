"""Clock, memory, tables and records that the programs share."""

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from anprompt.results.render import markdown_table
from benchmarks.plain import plain
from benchmarks.random_clip import SIZES
from benchmarks.workload import Workload
from common.cli import CommandParser

PATHS = ("fast", "plain")


def on_path(path: str, trainer: Any) -> contextlib.AbstractContextManager:
    """Run a trainer on one of PATHS."""
    return plain(trainer) if path == "plain" else contextlib.nullcontext()


def interleaved(
    actions: dict[str, Callable[[], float]], rounds: int, progress: str = ""
) -> dict[str, list[float]]:
    """Call each action once a round, so that all meet the same noise; seconds by action."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds):
        for name, action in actions.items():
            times[name].append(action())
            line = f"{progress} {name} {number + 1}/{rounds}: {times[name][-1]:.3f} s"
            print(line.strip(), file=sys.stderr, flush=True)
    return times


def in_own_process(function: Callable, *args: Any) -> Any:
    """``function(*args)`` in a fresh process, for the memory it takes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


@contextlib.contextmanager
def scratch(parent: str | None) -> Iterator[Path]:
    """A folder for weights and pictures: ``parent``, which is kept, or a temporary one."""
    if parent:
        yield Path(parent)
        return
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        yield Path(folder)


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table; the first row's keys are the columns."""
    cells = [[_cell(row.get(column)) for column in rows[0]] for row in rows]
    return markdown_table(list(rows[0]), cells, left=len(rows[0]))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return str(value)


def environment() -> dict[str, Any]:
    """What figures depend on besides the code."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def report(rows: list[dict[str, Any]], details: dict[str, Any], path: str | None) -> None:
    """Print the table; with a path, write rows, details and environment there as JSON."""
    print(table(rows))
    if path:
        record = {"environment": environment(), **details, "rows": rows}
        Path(path).write_text(json.dumps(record, indent=2) + "\n")


def parser(doc: str, **defaults: Any) -> argparse.ArgumentParser:
    """Arguments that all programs have; ``doc`` is the program's docstring."""
    described = CommandParser(description=doc)
    work = Workload(**defaults)
    add = described.add_argument
    add("--trainer", default=work.trainer, help="registered name (default: %(default)s)")
    add("--backbone", default=work.backbone, choices=list(SIZES), help="shape of the random CLIP")
    add("--classes", type=int, default=work.classes, help="number (default: %(default)s)")
    add("--batch", type=int, default=work.batch, help="images (default: %(default)s)")
    add("--precision", default="fp32", choices=("fp32", "fp16", "amp", "bf16"))
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--threads", type=int, default=0, help="of the CPU (default: torch's choice)")
    add("--cpu-time", action="store_true", help="processor time: for busy machines, --threads 1")
    add("--scratch", help="keep weights and pictures in this folder (default: a temporary one)")
    add("--json", help="write the figures to this file, too")
    return described


def workload(args: argparse.Namespace) -> Workload:
    return Workload(
        args.trainer,
        args.backbone,
        args.classes,
        args.batch,
        args.precision,
        args.device,
        args.threads,
        args.cpu_time,
    )
