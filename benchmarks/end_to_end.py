"""Seconds of a whole base-to-new run: train on half of the classes, test on both halves.

Reads image files, writes checkpoints and results, as ``train.py`` does. The plain run keeps no
decoded images and encodes as upstream does; both runs see the same images in the same order.

    python -m benchmarks.end_to_end --trainer MaPLe --backbone small --classes 20 --shots 4
"""

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import clock, measure, synthetic, workload
from dassl.engine import build_trainer


def run(
    work: workload.Workload, folder: Path, runs: Path, path: str, epochs: int, part: str
) -> None:
    """Train and test on the base classes, or test the trained model on the new ones."""
    cfg = workload.make_cfg(work, folder)
    cfg.OPTIM.MAX_EPOCH = epochs
    cfg.DATASET.SUBSAMPLE_CLASSES = part
    cfg.DATALOADER.TEST.BATCH_SIZE = 100
    cfg.DATALOADER.NUM_WORKERS = 2
    if path == "plain":
        cfg.DATALOADER.CACHE_IMAGES_MB = 0
    trained = runs / path
    cfg.OUTPUT_DIR = str(trained if part == "base" else runs / f"{path}-new")
    cfg.freeze()
    torch.manual_seed(1)
    trainer = build_trainer(cfg)
    with measure.on_path(path, trainer):
        if part == "base":
            trainer.train()
        else:
            trainer.load_model(str(trained), epoch=epochs)
            trainer.test()


def base_to_new(
    work: workload.Workload, folder: Path, runs: Path, path: str, epochs: int
) -> dict[str, Any]:
    """Both parts of a run, one after the other; seconds of each."""
    figures: dict[str, Any] = {"path": path}
    for part, column in (("base", "train and test base, s"), ("new", "test new, s")):

        def action(part: str = part) -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                run(work, folder, runs, path, epochs, part)

        figures[column] = clock.seconds(action, work.device, work.cpu_time)
    figures["whole, s"] = figures["train and test base, s"] + figures["test new, s"]
    return figures


def main(arguments: list[str] | None = None) -> None:
    parser = measure.parser(__doc__, classes=20, backbone="small")
    parser.add_argument("--shots", type=int, default=4, help="training images per class")
    parser.add_argument("--test-images", type=int, default=10, help="per class")
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args(arguments)
    work = measure.workload(args)
    rows = []
    with measure.scratch(args.scratch) as folder, tempfile.TemporaryDirectory() as runs:
        synthetic.write(folder / "data", work.classes, args.shots, args.test_images, 200, 256)
        for path in measure.PATHS:
            figures = base_to_new(work, folder, Path(runs), path, args.epochs)
            rows.append({"trainer": work.trainer, **figures})
    for row in rows:
        row["times fast"] = row["whole, s"] / rows[0]["whole, s"]
    details = {"workload": work.as_dict(), "shots": args.shots, "epochs": args.epochs}
    measure.report(rows, details, args.json)


if __name__ == "__main__":
    main()
