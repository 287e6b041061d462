"""Images a second in evaluation: this project's path, the plain path, upstream's code.

Batches of images in memory, class features included: this project encodes the texts once per
evaluation, upstream (MMRL apart) once per batch. The paths take turns, one evaluation each.

    python -m benchmarks.eval_throughput --trainer CoOp --classes 500 --batch 100 --batches 4
"""

from pathlib import Path
from typing import Any

import torch

from benchmarks import clock, measure, workload
from benchmarks.upstream import UpstreamSteps


@torch.no_grad()
def evaluate(trainer: Any, batch: dict, batches: int) -> torch.Tensor:
    """Logits of the last of several batches, in an evaluation of its own."""
    trainer.set_model_mode("eval")
    for _ in range(batches):
        image, _ = trainer.parse_batch_test(batch)
        logits = trainer.model_inference(image)
    trainer.set_model_mode("train")
    return logits


def measure_evaluation(
    work: workload.Workload,
    folder: Path,
    batches: int,
    rounds: int,
    plain_batches: int = 0,
    upstream: str | None = None,
) -> dict[str, Any]:
    """One case: ``rows``, ``seconds`` per batch, and how far the paths' logits are apart.

    Args:
        plain_batches: how many batches the other paths are given, whose cost per batch is always
            the same; 0 for as many.
    """
    trainer, batch = workload.build(work, folder), workload.make_batch(work)
    few = plain_batches or batches
    logits = {}

    def on(path: str, count: int):
        def run() -> float:
            with measure.on_path(path, trainer):

                def action() -> None:
                    logits[path] = evaluate(trainer, batch, count)

                return clock.seconds(action, work.device, work.cpu_time) / count

        return run

    actions = {"fast": on("fast", batches), "plain": on("plain", few)}
    with UpstreamSteps(upstream, work, folder) as theirs:
        if theirs is not None:
            actions["upstream"] = lambda: sum(theirs.test_batch() for _ in range(few)) / few
        times = measure.interleaved(actions, rounds, str(work))
    fast = measure.median(times["fast"])
    rows = [
        {
            "trainer": work.trainer,
            "classes": work.classes,
            "batch": work.batch,
            "path": path,
            "batches": batches if path == "fast" else few,
            "s/batch": measure.median(times[path]),
            "images/s": work.batch / measure.median(times[path]),
            "times fast": measure.median(times[path]) / fast,
        }
        for path in actions
    ]
    apart = float((logits["fast"] - logits["plain"]).abs().max())
    return {"workload": work.as_dict(), "rows": rows, "seconds": times, "difference": apart}


def main(arguments: list[str] | None = None) -> None:
    parser = measure.parser(__doc__, classes=500, batch=100)
    parser.add_argument("--batches", type=int, default=4, help="of one evaluation")
    parser.add_argument(
        "--plain-batches", type=int, default=0, help="of the other paths' (default: as many)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="evaluations that are timed")
    parser.add_argument("--upstream", help="a checkout of the method's own repository")
    args = parser.parse_args(arguments)
    with measure.scratch(args.scratch) as folder:
        result = measure_evaluation(
            measure.workload(args),
            folder,
            args.batches,
            args.rounds,
            args.plain_batches,
            args.upstream,
        )
    print(f"plain against fast, greatest difference of a logit: {result['difference']:.1e}")
    measure.report(result.pop("rows"), result, args.json)


if __name__ == "__main__":
    main()
