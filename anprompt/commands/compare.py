"""Compare methods on a folder of your own images: check it, train, test, table and report.

    python -m anprompt compare IMAGES
    python -m anprompt compare IMAGES --methods zsclip,coop,anprompt --shots 8 --seeds 1,2
    python -m anprompt compare IMAGES --base2new         half of the classes are not trained on

IMAGES has one folder per class, or train and test folders with one folder per class each (or is a
table, IMAGES.csv, with path,label[,split]). Where no test images are given, --shots images of every
class are trained on and all others tested on. Nothing is downloaded; BACKBONE names a CLIP.

Images are checked first, each one decoded: if any is wrong, all problems are listed and nothing is
trained. After an interruption the same command goes on. Results, the table (table.md, .tex and
.csv) and the page, report.html, are in OUTPUT, by default output_NAME in the repository. KEY VALUE
settings of train.py go at the end, after --.

exit status: 0 done, 1 some runs failed, 2 bad input, 130 interrupted.
"""

import argparse
import contextlib
import hashlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anprompt.commands import report, sweep, table
from anprompt.commands.data import check_own
from anprompt.protocols.environment import numbers
from anprompt.runs.recorded import RESULTS, is_anomaly, read_results
from common.cli import CommandParser
from common.errors import UsageError
from common.walk import folders_with

METHODS = "ZeroshotCLIP,CoOp,MaPLe,PromptSRC,MMRL,ANPrompt"
TABLE_FILES = ("table.md", "table.tex", "table.csv")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of what stands before ``--``."""
    parser = CommandParser(
        prog="anprompt compare",
        description=__doc__,
    )
    parser.add_argument("images", metavar="IMAGES", help="folder of images, or a CSV")
    parser.add_argument(
        "--methods", default=METHODS, metavar="A,B", help=f"methods, or all (default: {METHODS})"
    )
    parser.add_argument(
        "--shots", default="16", metavar="K", help="images per class for training (default: 16)"
    )
    parser.add_argument("--seeds", default="1,2,3", metavar="1,2", help="default: 1,2,3")
    parser.add_argument(
        "--base2new",
        action="store_true",
        help="train on half of the classes, test on both halves (default: few-shot on all)",
    )
    parser.add_argument("--title", help="what tables call the data (default: the folder's name)")
    parser.add_argument("--image-root", default="", help="folder that a CSV's paths start at")
    parser.add_argument(
        "--cfg",
        action="append",
        default=[],
        metavar="METHOD=CONFIG",
        help="another configuration of a method (repeatable)",
    )
    parser.add_argument("--jobs", metavar="N", help="runs side by side")
    return parser


def main(argv: list[str]) -> int:
    """Run ``anprompt compare``; returns the exit status."""
    end = argv.index("--") if "--" in argv else len(argv)
    args, options = make_parser().parse_args(argv[:end]), argv[end + 1 :]
    images = Path(os.path.abspath(os.path.expanduser(args.images)))
    if not images.exists():
        raise UsageError(f"{args.images}: no such folder or table of images")
    title = args.title or images.stem
    most = max(numbers("--shots", args.shots, least=1))
    status, is_drawn = check_own(str(images), args.image_root, "", most)
    if status:
        raise UsageError(f"{args.images}: see the problems above; nothing was trained")

    # For a folder of one's own nothing else is read from the environment.
    for name in ("CFG", "SHOTS", "LOADEP", "DATA"):
        os.environ.pop(name, None)
    protocol = "base2new" if args.base2new else "fewshot"
    flags = [protocol, "--methods", args.methods, "--datasets", "imagefolder"]
    flags += ["--seeds", args.seeds, "--shots", args.shots]
    for config in args.cfg:
        flags += ["--cfg", config]
    if args.jobs:
        flags += ["--jobs", args.jobs]
    settings = settings_for(images, args.image_root, title, most)
    parsed, settings = sweep.parse(
        [*flags, "--", *settings, *options],
        sweep.make_parser("compare", __doc__),
        output=output_for(title),
    )
    output = parsed.environment.output
    if is_drawn:
        check_earlier(Path(output), title, most)
    status = sweep.run(parsed, settings)
    if status > 1 or parsed.environment.is_dry_run:
        return status
    _say("")
    if status:
        if not folders_with(output, [RESULTS]):
            _say("All runs failed, see above: there is nothing to show.")
            return status
        _say(f"Some runs failed, see above; what follows shows all finished runs in {output}.")
    for name in TABLE_FILES:
        with contextlib.redirect_stdout(io.StringIO()):
            table.main([output, "--output", f"{output}/{name}"])
    table.main([output])
    _say("")
    # Where the report may take pictures of test images from.
    roots = [images.parent, *([images] if images.is_dir() else [])]
    roots += [Path(args.image_root).resolve()] if args.image_root else []
    listed = [word for root in roots for word in ("--root", str(root))]
    report.main([output, "--output", f"{output}/report.html", "--title", title, *listed])
    _say(f"Open the report in a browser: {Path(output).resolve()}/report.html")
    run = best_run(Path(output), title)
    if run is not None:
        _say(f"Ask a model: python -m anprompt predict --model-dir {shlex.quote(run)} IMAGES")
    return status


def output_for(title: str) -> str:
    """Return the folder of the runs where none is asked for: letters and digits of any script."""
    name = re.sub(r"\W+", "_", title).strip("_")
    return f"output_{name or hashlib.sha256(os.fsencode(title)).hexdigest()[:8]}"


def settings_for(images: Path, image_root: str, title: str, per_class: int) -> list[str]:
    """Return train.py's settings that name the data."""
    if images.is_dir():
        data = ["DATASET.IMAGE_DIR", str(images)]
    else:
        data = ["DATASET.CSV", str(images)]
        data += ["DATASET.IMAGE_DIR", str(Path(image_root).resolve())] if image_root else []
    return [*data, "DATASET.TITLE", title, "DATASET.TRAIN_PER_CLASS", str(per_class)]


def check_earlier(output: Path, title: str, per_class: int) -> None:
    """Refuse to go on in a folder whose runs were tested on other images of these, because another
    number of them was for training.

    Raises:
        UsageError: so.
    """
    for folder, results in _runs_on(output, title) if output.is_dir() else ():
        there = ((results.get("config") or {}).get("DATASET") or {}).get("TRAIN_PER_CLASS")
        if there not in (None, per_class):
            raise UsageError(
                f"{folder} was tested on other images: {there} of each class were for training, "
                f"now {per_class} are. Name another folder with OUTPUT=FOLDER; one call compares "
                f"both there: --shots {there},{per_class}"
            )


def best_run(output: Path, title: str) -> str | None:
    """Return the folder of the run on these images with the highest accuracy, if there is one.

    Of base to new it is a training's: tests on new classes have accuracies of another task.
    """
    done = {}
    for folder, results in _runs_on(output, title):
        if results.get("subsample_classes") != "new":
            done[str(folder)] = results["accuracy"]
    return max(done, key=lambda folder: done[folder], default=None)


def _runs_on(output: Path, title: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folders and results of finished runs of classification on images of this name."""
    for folder in folders_with(output, [RESULTS]):
        results = read_results(folder)
        if results is None or is_anomaly(results):
            continue
        if (results["dataset"], results.get("dataset_title")) == ("ImageFolder", title):
            yield folder, results


def _say(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
