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

from anprompt.runs.arguments import make_parser


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

    from anprompt.runs.config import build_cfg
    from common.lock import FolderLock

    cfg = build_cfg(args)
    if _is_done(cfg):
        return None
    lock = held.enter_context(FolderLock(cfg.OUTPUT_DIR))
    lock.acquire(create=False)

    import datasets  # noqa: F401  (registers the data sets)
    import trainers  # noqa: F401  (registers the trainers)
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
    from anprompt.runs.folder import finished_accuracy

    accuracy = finished_accuracy(cfg)
    if accuracy is None:
        return False
    print(f"Finished already, accuracy {accuracy:.1f}%; remove {cfg.OUTPUT_DIR} to redo it")
    return True


def _load_model(trainer, cfg, args: argparse.Namespace) -> None:
    from anprompt.runs.folder import check_backbone, epoch_to_load

    epoch = args.load_epoch
    names = trainer.get_model_names()
    if args.model_dir and names:
        check_backbone(cfg)
        if epoch is None:
            epoch = epoch_to_load(args.model_dir, names[0], cfg.OPTIM.MAX_EPOCH)
    trainer.load_model(args.model_dir, epoch=epoch)


def _execute(args: argparse.Namespace, cfg, trainer, build_log: str) -> None:
    from anprompt.runs.folder import record_config, recorded_config
    from dassl.utils import setup_logger

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
