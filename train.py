"""Train a prompt learner, or evaluate a trained one: CoOp's command line.

``python train.py --help`` lists the flags with examples. The run's folder (``--output-dir``) is
touched only once everything has been built, so bad input leaves what is there as it is. From then
on it is locked: a second command for the same folder ends at once, in one line.
"""

import argparse
import contextlib
import io
import os
import sys
from typing import TextIO

from common.parser import CommandParser

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


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="train.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
        help="ViT-B/16, RN50, an open_clip tag as ViT-B-32::laion2b_s34b_b79k, a checkpoint's "
        "path, or small (bundled; the default where nothing names another)",
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
    data.add_argument("--root", default="", metavar="DIR", help="folder that holds the data sets")
    data.add_argument(
        "--transforms", nargs="+", metavar="NAME", help="data augmentation, e.g. random_flip"
    )
    data.add_argument("--source-domains", nargs="+", metavar="NAME", help="for DA and DG")
    data.add_argument("--target-domains", nargs="+", metavar="NAME", help="for DA and DG")

    run = parser.add_argument_group("the run")
    run.add_argument("--output-dir", default="", metavar="DIR", help="the run's folder")
    run.add_argument("--seed", type=int, metavar="N", help="0 counts; negative: unseeded")
    run.add_argument(
        "--resume", default="", metavar="DIR", help="resume from the checkpoint in this folder"
    )
    run.add_argument("--no-train", action="store_true", help="build everything, then stop")

    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument("--eval-only", action="store_true", help="test, do not train")
    evaluation.add_argument(
        "--model-dir", default="", metavar="DIR", help="folder of the training to evaluate"
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


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    args = make_parser().parse_args(argv)

    # After parsing, so that --help and a misspelt flag are answered at once.
    from dassl.utils import UsageError

    console = sys.stdout
    log = _BuildLog(console)
    held = contextlib.ExitStack()  # the lock on the run's folder
    try:
        try:
            with contextlib.redirect_stdout(log):
                run = _build(args, held)
        except (UsageError, ValueError, FileNotFoundError) as error:
            return _refuse(error)
        if run is None:
            return 0
        try:
            _execute(args, *run, log.text())
        except UsageError as error:  # anything else that goes wrong in training shows its traceback
            return _refuse(error)
    except KeyboardInterrupt:
        print("train.py: interrupted; the same command takes the run up again", file=sys.stderr)
        return 130
    finally:
        held.close()
        sys.stdout = console
    return 0


def _build(args: argparse.Namespace, held: contextlib.ExitStack) -> tuple | None:
    """The configuration and the built trainer, and the folder locked; None where nothing is left to
    do.
    """
    import torch

    from common.lock import FolderLock
    from tools.config import build_cfg

    cfg = build_cfg(args)
    if _is_done(cfg):
        return None
    lock = held.enter_context(FolderLock(cfg.OUTPUT_DIR))
    lock.acquire(create=False)

    from dassl.engine import build_trainer
    from dassl.utils import collect_env_info, set_random_seed

    if cfg.SEED >= 0:
        print(f"Setting fixed seed: {cfg.SEED}")
        set_random_seed(cfg.SEED)
    if torch.cuda.is_available() and cfg.USE_CUDA:
        torch.backends.cudnn.benchmark = True
    _print_arguments(args, cfg)
    print("Collecting env info ...")
    print(f"** System info **\n{collect_env_info()}\n")
    trainer = build_trainer(cfg)
    if args.eval_only:
        _load_model(trainer, cfg, args)
    elif args.no_train:
        return None
    lock.acquire()
    # Another process may have had the folder while this one was building.
    return None if _is_done(cfg) else (cfg, trainer)


def _is_done(cfg) -> bool:
    """Whether the folder holds the finished run; refuses one with other settings."""
    from tools.runs import check_same_settings, is_finished, read_results

    check_same_settings(cfg)
    if not is_finished(cfg):
        return False
    accuracy = read_results(cfg.OUTPUT_DIR)["accuracy"]
    print(f"Finished already, accuracy {accuracy:.1f}%; remove {cfg.OUTPUT_DIR} to redo it")
    return True


def _load_model(trainer, cfg, args: argparse.Namespace) -> None:
    from tools.runs import check_backbone, epoch_to_load

    epoch = args.load_epoch
    names = trainer.get_model_names()
    if args.model_dir and names:
        check_backbone(cfg)
        if epoch is None:
            epoch = epoch_to_load(args.model_dir, names[0], cfg.OPTIM.MAX_EPOCH)
    trainer.load_model(args.model_dir, epoch=epoch)


def _execute(args: argparse.Namespace, cfg, trainer, build_log: str) -> None:
    from dassl.utils import setup_logger
    from tools.runs import record_config, recorded_config

    # The log of a run that is taken up again goes on in one file, where upstream's parsers look.
    is_resumed = recorded_config(cfg.OUTPUT_DIR) is not None
    record_config(cfg)
    setup_logger(cfg.OUTPUT_DIR, append=is_resumed)
    with sys.stdout as log:
        log.file.write(build_log)
        if args.eval_only:
            trainer.test()
        else:
            trainer.train()


def _print_arguments(args: argparse.Namespace, cfg) -> None:
    print("***************\n** Arguments **\n***************")
    for name, value in sorted(vars(args).items()):
        print(f"{name}: {value}")
    print(f"************\n** Config **\n************\n{cfg}")


def _refuse(error: Exception) -> int:
    if os.environ.get("ANPROMPT_TRACEBACK"):
        raise error
    reason = " ".join(str(error).split()) or type(error).__name__
    print(f"train.py: error: {reason}", file=sys.stderr)
    return 2


class _BuildLog(io.TextIOBase):
    """Shows what is printed and keeps it, until there is a log file to put it in."""

    def __init__(self, console: TextIO) -> None:
        self._console = console
        self._lines: list[str] = []

    def write(self, text: str) -> int:
        self._lines.append(text)
        return self._console.write(text)

    def flush(self) -> None:
        self._console.flush()

    def text(self) -> str:
        return "".join(self._lines)


if __name__ == "__main__":
    sys.exit(main())
