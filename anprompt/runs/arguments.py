"""train.py's command line."""

import argparse
import os

from common.cli import CommandParser

DESCRIPTION = """\
Train a prompt learner, or evaluate a trained one.

Settings come, later ones winning, from: defaults, --dataset-config-file, --config-file, flags, and
KEY VALUE options at the end. A finished run is skipped, an interrupted one is taken up again.
"""

EXAMPLES = """\
examples:
  CoOp on the first half of EuroSAT's classes, 16 images each (data in DIR/eurosat):
    python train.py --root DIR --seed 1 --trainer CoOp \\
      --dataset-config-file configs/datasets/eurosat.yaml \\
      --config-file configs/trainers/CoOp/vit_b16_ep50_ctxv1.yaml \\
      --output-dir output/mine DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base

  what it learned, on the other half:
    python train.py ... --eval-only --model-dir output/mine --output-dir output/mine_new \\
      DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES new

  no data at hand: --dataset-config-file configs/datasets/shapes.yaml draws its own images, and
  --backbone small is the CLIP that comes with this repository.

exit status: 0 done, 1 failed while training, 2 bad input (one line says what), 130 interrupted.
ANPROMPT_TRACEBACK=1 in the environment shows where in the code bad input was found.
"""


def folder(path: str) -> str:
    """Return a folder's path with ``~`` and ``~user`` resolved, which shells do not do everywhere.

    Raises:
        ArgumentTypeError: there is no such user.
    """
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise argparse.ArgumentTypeError(f"{path}: no such user")
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="train.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        usage="python train.py [flags] [KEY VALUE ...]",
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("--trainer", default="", metavar="NAME", help="ANPrompt, CoOp, MaPLe, ...")
    what.add_argument("--config-file", default="", metavar="YAML", help="the method's settings")
    what.add_argument(
        "--dataset-config-file", default="", metavar="YAML", help="names the data set"
    )
    what.add_argument(
        "--backbone",
        default="",
        metavar="NAME",
        help="ViT-B/16, RN50, an open_clip tag as ViT-B-32::laion2b_s34b_b79k, hf-hub:ORG/NAME, a "
        "checkpoint's path, or small (bundled; the default where nothing names another); "
        "python -m anprompt backbones lists them",
    )
    what.add_argument("--head", default="", metavar="NAME", help="name of the head, if any")
    what.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE.py",
        help="import a file that registers trainers or data sets of your own (repeatable)",
    )

    data = parser.add_argument_group("data")
    data.add_argument(
        "--root", type=folder, default="", metavar="DIR", help="folder that holds the data sets"
    )
    data.add_argument(
        "--transforms", nargs="+", metavar="NAME", help="data augmentation, e.g. random_flip"
    )
    data.add_argument("--source-domains", nargs="+", metavar="NAME", help="for DA and DG")
    data.add_argument("--target-domains", nargs="+", metavar="NAME", help="for DA and DG")

    run = parser.add_argument_group("the run")
    run.add_argument(
        "--output-dir", type=folder, default="", metavar="DIR", help="the run's folder"
    )
    run.add_argument("--seed", type=int, metavar="N", help="0 counts; negative: unseeded")
    run.add_argument(
        "--resume",
        type=folder,
        default="",
        metavar="DIR",
        help="resume from the checkpoint in this folder",
    )
    run.add_argument(
        "--train-epoch", type=int, metavar="N", help="of MMRL's scripts; has no effect there either"
    )
    run.add_argument(
        "--track",
        choices=("wandb", "mlflow"),
        help="send losses and accuracies there too, if it is installed; offline by default "
        "(WANDB_MODE, MLFLOW_TRACKING_URI)",
    )
    run.add_argument("--quiet", action="store_true", help="show the result only; log.txt has all")
    run.add_argument("--no-train", action="store_true", help="build everything, then stop")

    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument("--eval-only", action="store_true", help="test, do not train")
    evaluation.add_argument(
        "--model-dir",
        type=folder,
        default="",
        metavar="DIR",
        help="folder of the training to evaluate",
    )
    evaluation.add_argument(
        "--load-epoch",
        type=int,
        metavar="N",
        help="its checkpoint (default: the best where one was kept, else the last epoch)",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="settings by name, after all flags, e.g. OPTIM.MAX_EPOCH 5",
    )
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what all commands ask that rebuild a run's model: checkpoint, data sets, plugins."""
    parser.add_argument(
        "--load-epoch",
        type=int,
        metavar="N",
        help="a run's checkpoint to read (default: the one that was tested; of a training, the "
        "best where one was kept, else the last epoch)",
    )
    parser.add_argument(
        "--root", default="", metavar="DIR", help="folder of the data sets, if it has moved"
    )
    add_plugin_option(parser)


def add_plugin_option(parser: argparse.ArgumentParser) -> None:
    """Add --plugin."""
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py", help="as train.py's"
    )


def add_calibrate_option(parser: argparse.ArgumentParser, note: str) -> None:
    """Add --calibrate; ``note`` ends its help."""
    parser.add_argument(
        "--calibrate",
        choices=("temperature", "dac", "both"),
        help=f"scale confidences as fitted by anprompt calibrate RUN ({note})",
    )
