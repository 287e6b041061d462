"""Classify your own images with a trained model.

    python -m anprompt predict --model-dir RUN photo.jpg
    python -m anprompt predict --model-dir RUN folder/ --csv > answers.csv
    python -m anprompt predict --model-dir RUN folder/ --classes names.txt --top 3 --json
    python -m anprompt predict --model-dir RUN --export my_model
    python -m anprompt predict --model-dir my_model photo.jpg
    python -m anprompt predict --model-dir RUN folder/ --maps maps/     RUN of anomaly detection

RUN is the folder of a training (or of an evaluation), or of an export. The answers are the classes
that it was tested on; --classes names others, one a line or a JSON list. Where an image's folder
has the name of a class, that is its label, and the accuracy is printed at the end. --export and
--export-upstream are python -m anprompt export's formats safetensors and upstream. In Python:
anprompt.Predictor.

A run of anomaly detection gives each image a score from 0 to 1, 1 being anomalous; --maps writes
its map as 16-bit grey PNG (65535 is 1) of the image's size. The run's data set must still be there.
In Python: anprompt.runs.anomaly_predictor.AnomalyPredictor.

exit status: 0 done, 1 some images cannot be read (each is named), 2 bad input.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from anprompt.runs.arguments import add_calibrate_option, add_model_options
from common.cli import CommandParser
from common.errors import UsageError, one_line
from common.reading import read_json, read_text
from common.schema import mismatch
from common.walk import files_below
from datasets.classnames import as_prompted

Row = tuple[Path, Any, str, str]  # image, predictions or None, why none, label or ""


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt predict",
        description=__doc__,
    )
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE", help="image files, and folders of them")
    add("--model-dir", required=True, type=Path, metavar="RUN", help="a run, or an export")
    add("--classes", type=Path, metavar="FILE", help="class names: one a line, or a JSON list")
    add("--top", type=int, default=5, metavar="K", help="answers per image (default 5)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV")
    add("--batch", type=int, default=64, metavar="N", help="batch size (default 64)")
    add("--workers", type=int, default=2, metavar="N", help="threads that read images (default 2)")
    add_calibrate_option(parser, "answers stay as they are")
    add("--export", type=Path, metavar="DIR", help="write the model to this folder")
    add(
        "--export-upstream",
        type=Path,
        metavar="DIR",
        help="write the learned tensors as the method's upstream repository does",
    )
    add("--maps", type=Path, metavar="DIR", help="anomaly detection: write maps to this folder")
    add_model_options(parser)
    return parser


def main(argv: list[str]) -> int:
    """Run ``anprompt predict``; return the exit status."""
    args = make_parser().parse_args(argv)
    for name in ("top", "batch", "workers"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} {getattr(args, name)}: give 1 or more")
    if not args.images and args.export is None and args.export_upstream is None:
        raise UsageError("name an image or a folder, or --export DIR")
    for option in ("export", "export_upstream"):
        if args.calibrate and getattr(args, option) is not None:
            raise UsageError(
                f"--calibrate is for answers, not for --{option.replace('_', '-')}; python -m "
                "anprompt export takes it with --format onnx and torch"
            )
    files, others = find_images(args.images)
    from anprompt.runs.config import load_plugin
    from anprompt.runs.predictor import Predictor

    for plugin in args.plugin:
        load_plugin(plugin)
    if is_detector(args.model_dir):
        return detect(args, files, others)
    if args.maps is not None:
        raise UsageError(f"--maps {args.maps}: {args.model_dir} is no model of anomaly detection")
    names = read_names(args.classes) if args.classes else None
    predictor = Predictor.load(args.model_dir, names, args.root, args.load_epoch)
    if args.calibrate:
        predictor.calibrate(args.calibrate, args.model_dir)
    if args.export is not None:
        predictor.export(args.export)
        print(f"model written to {args.export}", file=sys.stderr)
    if args.export_upstream is not None:
        from anprompt.runs.export import write_upstream

        file = write_upstream(predictor.trained, args.export_upstream)
        print(f"learned tensors written to {file}", file=sys.stderr)
    say_left_out(others)
    if not files:
        return 0
    write = write_json if args.json else write_csv if args.csv else write_text
    labels = Labels(predictor.classnames)
    answers = predictor.answers(files, args.top, args.batch, args.workers)
    # No bar among answers that are shown, and none where stderr is no terminal.
    bar = tqdm(answers, total=len(files), disable=True if sys.stdout.isatty() else None)
    failed = write(labels.added(bar))
    for _, reason in failed:
        print(f"not read: {reason}", file=sys.stderr)
    if labels.count:
        print(labels.accuracy(), file=sys.stderr)
    return 1 if failed else 0


def say_left_out(others: list[Path]) -> None:
    """Say which files are no images by their names."""
    if others:
        print(
            f"no images by their names, left out: {len(others)}, e.g. {others[0]}", file=sys.stderr
        )


def is_detector(folder: Path) -> bool:
    """Return whether a folder is that of a run of anomaly detection."""
    from anprompt.runs.export import is_export
    from anprompt.runs.trained import read_cfg, trainer_class

    return not is_export(folder) and trainer_class(read_cfg(folder)).task == "anomaly"


def detect(args: argparse.Namespace, files: list[Path], others: list[Path]) -> int:
    """Print image scores and write maps; returns the exit status."""

    from anprompt.runs.anomaly_predictor import AnomalyPredictor, map_picture
    from common.files import atomic_write
    from common.images import read_image

    for option, given in (
        ("--export", args.export),
        ("--export-upstream", args.export_upstream),
        ("--classes", args.classes),
        ("--calibrate", args.calibrate),
    ):
        if given is not None:
            raise UsageError(f"{option}: not for a model of anomaly detection")
    say_left_out(others)
    detector = AnomalyPredictor.load(args.model_dir, args.root, args.load_epoch)
    common = _folder_of(files) if args.maps else Path()
    rows: list[dict[str, Any]] = []
    step = -(-args.batch // 4)  # maps take more memory than answers
    for start in tqdm(range(0, len(files), step), unit="batch", disable=None):
        inputs: dict[Path, Any] = {}
        for path in files[start : start + step]:
            try:
                inputs[path] = detector.prepare(path)
            except (UsageError, OSError) as error:
                rows.append({"image": str(path), "error": one_line(error)})
        scores, maps = detector.predict(inputs.values())
        for path, score, found in zip(inputs, scores.tolist(), maps, strict=True):
            rows.append({"image": str(path), "score": round(score, 6)})
            if args.maps is None:
                continue
            place = args.maps / _absolute(path).relative_to(common)
            place = place.with_name(f"{place.name}_map.png")
            size = read_image(path, detector.reading).size
            with atomic_write(str(place), "wb") as file:
                map_picture(found, size).save(file, format="PNG")
            rows[-1]["map"] = str(place)
    read = [row for row in rows if "score" in row]
    if args.json:
        print(json.dumps(rows, indent=2))
    elif args.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", "score", *(["map"] if args.maps else [])])
        writer.writerows([list(row.values()) for row in read])
    else:
        for row in read:
            print(f"{row['score']:.4f}  {row['image']}")
    for row in rows:
        if "error" in row:
            print(f"not read: {row['error']}", file=sys.stderr)
    return 1 if len(read) < len(rows) else 0


def _folder_of(files: list[Path]) -> Path:
    """Return the folder that all files are below.

    Raises:
        UsageError: there is none, as on several drives.
    """
    try:
        return Path(os.path.commonpath([_absolute(file).parent for file in files]))
    except ValueError:
        raise UsageError("--maps: give images of one drive at a time") from None


def _absolute(path: Path) -> Path:
    """Return an absolute path without ``..``, with which a map would leave its folder."""
    return Path(os.path.abspath(path))


def find_images(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return images to answer for, folders searched, and files in them that are none by their
    names.

    Raises:
        UsageError: a path does not exist, or a folder holds no image.
    """
    from datasets.folders import is_image, is_junk
    from datasets.splits import IMAGE_SUFFIXES

    images, others = [], []
    for path in paths:
        if path.is_dir():
            files = files_below(path, is_left_out=is_junk)
            found = [file for file in files if is_image(file.name)]
            if not found:
                raise UsageError(f"{path}: no image in this folder ({', '.join(IMAGE_SUFFIXES)})")
            images += found
            others += [file for file in files if file not in set(found)]
        elif path.is_file():
            images.append(path)
        else:
            what = "no regular file" if path.exists() else "no such file or folder"
            raise UsageError(f"{path}: {what}")
    return images, others


def read_names(path: Path) -> list[str]:
    """Return the class names in a file: a JSON list, or one a line.

    Raises:
        UsageError: unreadable, or not of that form.
    """
    try:
        text = read_text(path)
        if not text.lstrip().startswith("["):
            return [line.strip() for line in text.splitlines() if line.strip()]
        names = read_json(path)
    except UsageError as error:
        raise UsageError(f"--classes {error}") from None
    if problem := mismatch(names, [str]):
        raise UsageError(f"--classes {path}: expected a JSON list of names ({problem})")
    return names


class Labels:
    """Takes an image's label from the name of its folder, and counts right answers.

    Attributes:
        count: images with a label that were answered.
    """

    def __init__(self, classnames: list[str]):
        self._names = {as_prompted(name): name for name in classnames}
        self.count = self._correct = self._others = 0

    def added(self, rows: Iterable[tuple[Path, Any, str]]) -> Iterator[Row]:
        """Yield each row with its label, "" where the folder names no class."""
        for path, predictions, reason in rows:
            label = self._names.get(as_prompted(path.absolute().parent.name), "")
            if predictions is not None:
                self.count += bool(label)
                self._others += not label
                is_correct = as_prompted(predictions[0].classname) == as_prompted(label)
                self._correct += bool(label) and is_correct
            yield path, predictions, reason, label

    def accuracy(self) -> str:
        """Return a line that says how many answers were right."""
        share = 100 * self._correct / self.count
        others = f"; {self._others:,} in folders that name no class" if self._others else ""
        return f"accuracy {share:.1f}%: {self._correct:,} of {self.count:,} images{others}"


def write_text(rows: Iterator[Row]) -> list[tuple[Path, str]]:
    """Print answers for reading; return the images that could not be read."""
    failed = []
    for path, predictions, reason, _ in rows:
        if predictions is None:
            failed.append((path, reason))
            continue
        print(path)
        for prediction in predictions:
            print(f"  {100 * prediction.probability:5.1f}%  {prediction.classname}")
    return failed


def write_csv(rows: Iterator[Row]) -> list[tuple[Path, str]]:
    """Print image,rank,class,probability,label; return the images that could not be read."""
    failed = []
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "probability", "label"])
    for path, predictions, reason, label in rows:
        if predictions is None:
            failed.append((path, reason))
            continue
        for rank, found in enumerate(predictions, start=1):
            writer.writerow([path, rank, found.classname, f"{found.probability:.6f}", label])
    return failed


def write_json(rows: Iterator[Row]) -> list[tuple[Path, str]]:
    """Print a list with one entry an image, unreadable ones with ``error``; return those."""
    failed: list[tuple[Path, str]] = []
    content: list[dict[str, Any]] = []
    for path, predictions, reason, label in rows:
        if predictions is None:
            failed.append((path, reason))
            content.append({"image": str(path), "error": reason})
        else:
            content.append(
                {
                    "image": str(path),
                    "predictions": [
                        {"class": p.classname, "probability": p.probability} for p in predictions
                    ],
                }
                | ({"label": label} if label else {})
            )
    print(json.dumps(content, indent=2))
    return failed
