"""Check on a GPU what can only be checked there: precisions, resuming, memory, times.

Every trainer takes three steps in each precision on a small random CLIP; losses and logits are held
against the same steps on the CPU in fp32. A run is stopped and resumed. Then steps and evaluations
are timed at ViT-B/16 shape. One table a part, all figures in one JSON. Ends after about
``--minutes``: what there is no time for is left out, and said.

    bash scripts/gpu_check.sh
    python -m benchmarks.gpu_check --device cpu --quick     (the program itself, without a GPU)
"""

import contextlib
import gc
import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import clock, eval_throughput, measure, workload
from benchmarks.workload import Workload
from common.cli import CommandParser, run
from common.errors import UsageError
from dassl.engine import TRAINER_REGISTRY
from trainers import backbone

STEPS = 3
# How far losses may be from the CPU's in fp32, relative to them.
LIMITS = {"fp32": 1e-3, "tf32": 0.01, "amp": 0.03, "fp16": 0.03, "bf16": 0.15}
# Nothing drawn on one device and not on the other; a scale at which random weights do not overflow.
SAME = ("TRAINER.CLIPLORA.DROPOUT_RATE", 0.0, "OPTIM.LR", 1e-4)
SCALE = 128.0
PATHS = ("fast", "plain", "compiled", "CUDA graphs")


class Budget:
    """Time that is left."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60 * minutes
        self.left_out: list[str] = []

    def allows(self, what: str, seconds: float = 0) -> bool:
        """Return whether there is time for it; note it otherwise."""
        if time.monotonic() + seconds < self.end:
            print(f"... {what}", file=sys.stderr, flush=True)
            return True
        self.left_out.append(what)
        return False


def methods() -> list[str]:
    """Names of this project's trainers that learn to classify."""
    import trainers  # noqa: F401  (registers them)

    return [
        name
        for name in sorted(TRAINER_REGISTRY.registered_names())
        if (trainer := TRAINER_REGISTRY.get(name)).learns and trainer.task == "classification"
    ]


def steps_of(
    work: Workload, folder: Path, changes: tuple, initial: dict | None = None
) -> tuple[list[float], torch.Tensor, dict[str, torch.Tensor]]:
    """Return the losses of a few steps, logits afterwards, and what was learned before them."""
    trainer = workload.build(work, folder, changes)
    learner = trainer.model.prompt_learner
    if initial is not None:
        learner.load_state_dict(initial)
    if trainer.scaler is not None:
        trainer.scaler = torch.amp.GradScaler(work.device, init_scale=SCALE)
    started = {name: x.detach().cpu().clone() for name, x in learner.state_dict().items()}
    batch = workload.make_batch(work)
    torch.manual_seed(1)
    losses = [float(trainer.forward_backward(batch)["loss"]) for _ in range(STEPS)]
    logits = eval_throughput.evaluate(trainer, batch, 1).float().cpu()
    return losses, logits, started


def check_precisions(folder: Path, device: str, names: list[str], budget: Budget) -> list[dict]:
    """A row a trainer: the greatest relative difference of a loss by precision, and of logits."""
    rows = []
    for name in names:
        if not budget.allows(f"precisions of {name}", 5):
            continue
        work = Workload(name, "micro", classes=5, batch=4)
        expected, logits, initial = steps_of(work, folder, SAME)
        row: dict[str, Any] = {"trainer": name}
        for precision in LIMITS:
            changes = (*SAME, "INEXACT.TF32", precision == "tf32")
            own = work.with_(device=device, precision=precision.replace("tf32", "fp32"))
            losses, found, _ = steps_of(own, folder, changes, initial)
            torch.set_float32_matmul_precision("highest")
            far = max(abs(a - b) / max(abs(b), 0.1) for a, b in zip(losses, expected, strict=True))
            row[precision] = far
            row[f"logits {precision}"] = float((found - logits).abs().max() / logits.abs().max())
            if not far <= LIMITS[precision]:
                row["far"] = f"{row.get('far', '')} {precision}".strip()
        rows.append(row)
    return rows


def check_resume(folder: Path, device: str) -> float:
    """Return how far what is learned is apart between a run and one that was stopped on its way."""
    learned = []
    for stops in (False, True):
        output = folder / f"resume_{device}_{stops}"
        changes = ("OUTPUT_DIR", str(output), "OPTIM.MAX_EPOCH", 2, "TEST.NO_TEST", True)
        work = Workload("CoOp", "micro", classes=5, batch=4, device=device)
        for begun in range(1 + stops):
            trainer = workload.build(work, folder, changes)
            if stops and not begun:
                trainer.before_epoch = _stop_at_second(trainer)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(InterruptedError):
                trainer.train()
        learned.append(trainer.model.prompt_learner.ctx.detach().cpu())
    return float((learned[0] - learned[1]).abs().max())


def _stop_at_second(trainer: Any) -> Any:
    def stop() -> None:
        if trainer.epoch == 1:
            raise InterruptedError

    return stop


@contextlib.contextmanager
def fresh_memory(device: str) -> Iterator[None]:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield


def time_steps(folder: Path, work: Workload, path: str) -> dict[str, Any]:
    """A row: the median time of a step on a path, after two that warm up, and peak memory."""
    mode = {"compiled": "default", "CUDA graphs": "reduce-overhead"}.get(path, "")
    row: dict[str, Any] = {"classes": work.classes, "batch": work.batch, "path": path}
    with fresh_memory(work.device):
        try:
            trainer = workload.build(work, folder, ("INEXACT.COMPILE", mode) if mode else ())
            batch = workload.make_batch(work)
            with measure.on_path(path, trainer):
                times = [
                    clock.seconds(lambda: trainer.forward_backward(batch), work.device)
                    for _ in range(7)
                ]
        except torch.OutOfMemoryError:
            return row | {"ms": None, "peak MiB": None, "note": "out of memory"}
        except Exception as error:  # a compiler has many; the others' figures are wanted
            if not mode:
                raise
            return row | {"ms": None, "peak MiB": None, "note": type(error).__name__}
        return row | {
            "ms": 1000 * (measure.median(times[2:]) or 0),
            "peak MiB": clock.peak_memory_mb(work.device),
            "note": "",
        }


def check(args: Any) -> int:
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "no GPU that this PyTorch can use; --device cpu --quick tries the program without one"
        )
    if args.device == "cpu":
        backbone.NEED_GPU = ()  # so that these precisions are really run
    budget = Budget(args.minutes)
    names = methods()[:: 12 if args.quick else 1]
    size, counts, batches = "vitb16", (50, 500, 1000), (4, 32)
    if args.quick:
        size, counts, batches = "micro", (5,), (2,)
    compiled = PATHS if args.device == "cuda" else PATHS[:2]
    with measure.scratch(args.scratch) as folder:
        precisions = check_precisions(folder, args.device, names, budget)
        resumed = check_resume(folder, args.device)
        times, evaluations = [], []
        precision = "fp16" if args.device == "cuda" else "fp32"
        for batch in batches:
            for classes in counts:
                work = Workload("CoOp", size, classes, batch, precision, args.device)
                for path in compiled:
                    # Compiling takes a minute; launches cost most in small batches.
                    slow = path in PATHS[2:]
                    if slow and (batch != batches[0] or classes == counts[-1] > 500):
                        continue
                    if budget.allows(f"{work}, {path}", 90 if slow else 15):
                        times.append(time_steps(folder, work, path))
        work = Workload("CoOp", size, counts[-1], 8 if args.quick else 100, precision, args.device)
        if budget.allows(f"evaluation, {work}", 30):
            evaluations = eval_throughput.measure_evaluation(work, folder, 4, 2, 1)["rows"]
    card = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    print(f"\nOn {card}. Losses against the CPU's in fp32, greatest relative difference:\n")
    shown = [{k: v for k, v in row.items() if not k.startswith("logits")} for row in precisions]
    columns = {"trainer": None, **dict.fromkeys(LIMITS), "far": ""}
    for title, rows in (
        ("", [columns | row for row in shown]),
        ("A training step (CoOp):", times),
        ("An evaluation (CoOp):", evaluations),
    ):
        if rows:
            print(f"{title}\n\n{measure.table(rows)}\n" if title else f"{measure.table(rows)}\n")
    print(f"Stopped and resumed, learned values are apart by at most {resumed:.1e}")
    for what in budget.left_out:
        print(f"No time for: {what}")
    record = {
        "environment": measure.environment(), "precisions": precisions, "limits": LIMITS,
        "resumed": resumed, "steps": times, "evaluations": evaluations,
        "left_out": budget.left_out,
    }  # fmt: skip
    Path(args.json).write_text(json.dumps(record, indent=2) + "\n")
    far = [f"{row['trainer']} ({row['far']})" for row in precisions if row.get("far")]
    if far:
        print(f"Further from the CPU than allowed: {', '.join(far)}")
    print(f"All figures: {args.json}")
    return 1 if far else 0


def _main(argv: list[str]) -> int:
    parser = CommandParser(prog="gpu_check", description=__doc__)
    add = parser.add_argument
    add("--device", default="cuda", choices=("cuda", "cpu"))
    add("--quick", action="store_true", help="few trainers, tiny shapes")
    add("--minutes", type=float, default=8, help="time to take (default: 8)")
    add("--json", default="gpu_check.json", help="file of all figures (default: %(default)s)")
    add("--scratch", help="keep weights and pictures in this folder (default: a temporary one)")
    return check(parser.parse_args(argv))


def main(argv: list[str] | None = None) -> int:
    return run(_main, "gpu_check", argv)


if __name__ == "__main__":
    sys.exit(main())
