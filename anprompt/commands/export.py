"""Write a trained model to files that run elsewhere.

    python -m anprompt export RUN --output my_model
    python -m anprompt export RUN --format onnx --output my_model.onnx
    python -m anprompt export RUN --format torch --output my_model.pt2
    python -m anprompt export RUN --format upstream --output FOLDER

RUN is the folder of a training or an evaluation, or a safetensors export. The classes are those it
was tested on; --classes names others.

    safetensors   a folder with learned tensors and class features (model.safetensors), settings and
                  class names (model.json); the backbone is named, not copied. predict reads it
    onnx          one file with everything inside: prepared images in, class probabilities out
    torch         the same graph as a program that torch.export.load reads
    upstream      the learned tensors under the names of the method's upstream repository, for its
                  --model-dir; refused for methods that have none

onnx and torch take any number of images at once and are compared with the model before they are
kept. docs/DEPLOYMENT.md says how each is used.

exit status: 0 done, 2 bad input.
"""

import argparse
import sys
from pathlib import Path

from anprompt.runs.arguments import add_calibrate_option, add_model_options
from common.cli import CommandParser
from common.errors import UsageError

FORMATS = {"safetensors": "model", "onnx": "model.onnx", "torch": "model.pt2", "upstream": "model"}


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt export",
        description=__doc__,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run, or a safetensors export")
    add("--format", choices=FORMATS, default="safetensors", help="default: safetensors")
    add(
        "--output",
        type=Path,
        metavar="PATH",
        help="folder or file that is written (default: model, model.onnx, model.pt2)",
    )
    add("--classes", type=Path, metavar="FILE", help="class names: one a line, or a JSON list")
    add_calibrate_option(parser, "onnx, torch")
    add_model_options(parser)
    return parser


def main(argv: list[str]) -> int:
    """Run ``anprompt export``; return the exit status."""
    args = make_parser().parse_args(argv)
    from anprompt.commands.predict import read_names
    from anprompt.runs import deploy, export
    from anprompt.runs.config import load_plugin
    from anprompt.runs.predictor import Predictor

    for plugin in args.plugin:
        load_plugin(plugin)
    names = read_names(args.classes) if args.classes else None
    if args.calibrate and args.format not in ("onnx", "torch"):
        raise UsageError(f"--calibrate is for --format onnx and torch, not for {args.format}")
    portable = args.format in ("onnx", "torch")
    predictor = Predictor.load(args.run, names, args.root, args.load_epoch, portable)
    if args.calibrate:
        predictor.calibrate(args.calibrate, args.run)
    path = args.output or Path(FORMATS[args.format])
    if args.format == "safetensors":
        predictor.export(path)
    elif args.format == "upstream":
        path = export.write_upstream(predictor.trained, path)
    elif args.format == "onnx":
        deploy.write_onnx(predictor.trained, predictor.classnames, path, predictor.scaling)
    else:
        deploy.write_program(predictor.trained, predictor.classnames, path, predictor.scaling)
    print(f"model written to {path}", file=sys.stderr)
    return 0
