"""Seconds that kept image features save, and seconds of the methods that train on them alone.

Without --data: a test of each method on images of noise, which a zero-shot run has seen before,
with what that kept and without. The weights' digest, reading the images' files and the class
features are part of both. The answers must be the same bit for bit.

With --data, the folder of the data sets: training and test of each method on features by train.py,
a second run that finds the features which the first one kept, in processor seconds of the whole
program. The backbone is then a real one: --clip.

    python -m benchmarks.features --classes 10 --images 100 --threads 1 --cpu-time
    python -m benchmarks.features --data DATA --dataset eurosat --shots 16 --clip small
"""

import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from anprompt.protocols.methods import find_method
from benchmarks import clock, measure, synthetic, workload
from common.paths import ROOT
from dassl.engine import build_trainer

TEXT_ONLY = ("CoOp", "KgCoOp", "ProGrad", "TCP")
ON_FEATURES = ("TipAdapter", "TipAdapterF", "LinearProbe", "CLIPAdapter", "TaskRes", "CLAP")


def tested(work: workload.Workload, folder: Path, keeps: bool) -> tuple[float, bytes]:
    """Seconds of a test of an untrained method, and its answers."""
    cfg = workload.make_cfg(work, folder)
    cfg.TEST.KEEP_FEATURES = keeps
    cfg.freeze()
    with contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(1)
        trainer = build_trainer(cfg)
        seconds = clock.seconds(trainer.test, work.device, work.cpu_time)
    return seconds, Path(cfg.OUTPUT_DIR, "predictions.npz").read_bytes()


def saved(
    work: workload.Workload, folder: Path, trainers: Sequence[str], images: int
) -> list[dict[str, Any]]:
    """A row for each method: seconds of its test with and without kept features."""
    if work.threads:
        torch.set_num_threads(work.threads)
    per_class = -(-images // work.classes)
    synthetic.write(folder / "data", work.classes, 1, per_class, work.classes * per_class, 256)
    os.environ["ANPROMPT_CACHE"] = str(folder / "cache")
    tested(work.with_(trainer="ZeroshotCLIP"), folder, keeps=True)
    rows = []
    for name in trainers:
        own = work.with_(trainer=name)
        without, answers = tested(own, folder, keeps=False)
        kept, again = tested(own, folder, keeps=True)
        print(f"{name}: {without:.2f} s, {kept:.2f} s with kept features", file=sys.stderr)
        rows.append(
            {
                "trainer": name,
                "images": work.classes * per_class,
                "without, s": without,
                "kept, s": kept,
                "times faster": without / kept,
                "same bits": "yes" if answers == again else "NO",
            }
        )
    return rows


def processor_seconds(command: Sequence[str], **environment: str) -> float:
    """Processor seconds of a program and those it started.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        command, env={**os.environ, **environment}, cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def on_features(
    data: str, dataset: str, shots: int, backbone: str, trainers: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each method: processor seconds of training and test, without and with features."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for name in trainers:
            method = find_method(name)
            config = method.config_file(method.config("fewshot", dataset, shots))
            seconds = [
                processor_seconds(
                    [
                        *(sys.executable, "train.py", "--quiet", "--seed", "1", "--root", data),
                        *("--trainer", name, "--backbone", backbone),
                        *("--config-file", str(config)),
                        *("--dataset-config-file", f"configs/datasets/{dataset}.yaml"),
                        *("--output-dir", f"{folder}/{name}-{turn}"),
                        *("DATASET.NUM_SHOTS", str(shots)),
                    ],
                    ANPROMPT_CACHE=f"{folder}/cache",
                    OMP_NUM_THREADS="1",
                )
                for turn in ("first", "second")
            ]
            print(f"{name}: {seconds[0]:.1f} s, then {seconds[1]:.1f} s", file=sys.stderr)
            rows.append({"trainer": name, "first run, s": seconds[0], "again, s": seconds[1]})
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = measure.parser(__doc__, classes=10, batch=100)
    parser.add_argument("--images", type=int, default=100, help="of the test (default: 100)")
    parser.add_argument("--methods", help="comma-separated, instead of the usual ones")
    parser.add_argument("--data", help="folder of the data sets: measure methods on features")
    parser.add_argument("--dataset", default="eurosat", help="with --data (default: eurosat)")
    parser.add_argument("--shots", type=int, default=16, help="with --data (default: 16)")
    parser.add_argument("--clip", default="small", help="with --data: the backbone")
    args = parser.parse_args(arguments)
    chosen = args.methods.split(",") if args.methods else None
    work = measure.workload(args)
    if args.data:
        data = str(Path(args.data).resolve())
        rows = on_features(data, args.dataset, args.shots, args.clip, chosen or ON_FEATURES)
    else:
        with measure.scratch(args.scratch) as folder:
            rows = saved(work, folder, chosen or TEXT_ONLY, args.images)
    measure.report(rows, {"workload": work.as_dict()}, args.json)


if __name__ == "__main__":
    main()
