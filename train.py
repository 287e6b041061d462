"""Train a prompt learner, or evaluate a trained one: CoOp's command line.

``python train.py --help`` lists the flags with examples. The run's folder (``--output-dir``) is
touched only once everything has been built, so bad input leaves what is there as it is. From then
on it is locked: a second command for the same folder ends at once, in one line.

``torchrun --standalone --nproc-per-node N train.py ...`` shares the run among N processes: see
``common.ranks``. The first of them alone has the folder.
"""

import contextlib
import io
import os
import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from common.ranks import Ranks
    from dassl.engine import SimpleTrainer
    from dassl.utils import Logger

TALKATIVE = ("anprompt", "clip", "common", "dassl", "datasets", "noise", "trainers")


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` and return the exit status."""
    return cli.run(_run, "train.py", argv, interrupted="the same command takes the run up again")


def _run(argv: list[str]) -> int:
    from anprompt.runs.arguments import make_parser

    is_first = os.environ.get("RANK", "0") == "0"
    # The processes that torchrun starts have one command line: the first answers it.
    with contextlib.nullcontext() if is_first else contextlib.redirect_stderr(io.StringIO()):
        args = make_parser().parse_args(argv)

    # After parsing, so that --help and a misspelt flag are answered at once.
    from dassl.utils import Logger

    with contextlib.ExitStack() as held:
        ranks = None
        if "WORLD_SIZE" in os.environ:
            from common.ranks import joined

            ranks = held.enter_context(joined())
        console = sys.stdout
        log = held.enter_context(Logger(keeps=True, shows=not args.quiet))
        held.callback(setattr, sys, "stdout", console)
        sys.stdout = log
        held.enter_context(cli.shown_messages(*TALKATIVE))
        _Run(args, argv, log, held, ranks).execute()
        log.flush()
    return 0


class _Run:
    """One run: configured, built, and unless it is finished already, carried out.

    Args:
        args, argv: the command line, parsed and not.
        log: what is printed goes there.
        held: keeps the lock on the run's folder.
        ranks: this process among those that share the run; None for one that is alone.
    """

    def __init__(
        self, args: Namespace, argv: list[str], log: "Logger", held: Any, ranks: "Ranks | None"
    ):
        from anprompt.runs.config import build_cfg
        from anprompt.runs.identity import settings_digest
        from common.lock import FolderLock

        self.args, self.argv, self.log, self.ranks = args, argv, log, ranks
        self.is_first = ranks is None or ranks.is_first
        self.known: dict = {}  # of the data, which are looked at twice
        self.resumed: list[str] = []  # what differs from the training that is gone on with
        self.checkpoint: dict[str, str] = {}  # digests of the files that an evaluation reads
        self.cfg: CfgNode = build_cfg(args)
        if ranks is not None:
            ranks.check_alike("settings", settings_digest(self.cfg))
        self.lock = held.enter_context(FolderLock(self.cfg.OUTPUT_DIR))

    def execute(self) -> None:
        """Do what the command line asks for, as far as it is not done already."""
        if self._is_finished():
            return
        if self.is_first:
            self.lock.acquire(create=False)
        trainer = self._build()
        if self.args.eval_only:
            self._load_model(trainer)
        elif self.args.no_train:
            return
        if self.is_first:
            self.lock.acquire()
        # Another process may have had the folder while this one was building.
        if self._is_finished():
            return
        if self.is_first:
            self._start(trainer)
        if self.args.eval_only:
            trainer.test()
        else:
            trainer.train()
        if self.is_first:
            self._say_result()

    def _is_finished(self) -> bool:
        if self.ranks is None:
            return self._is_found_finished()
        return bool(self.ranks.told(self.is_first and self._is_found_finished()))

    def _is_found_finished(self) -> bool:
        from anprompt.runs.folder import state_of

        state = state_of(self.cfg, self.known)
        notes = "; ".join(state.notes)
        if state.accuracy is None:
            if notes:
                print(notes)
            return False
        self.log.show(
            f"Finished already, {state.measure} {state.accuracy:.1f}%; remove "
            f"{self.cfg.OUTPUT_DIR} to redo it{f' ({notes})' if notes else ''}\n"
        )
        return True

    def _build(self) -> "SimpleTrainer":
        """Build data, model and optimiser; print settings only once that has gone well."""
        args, cfg = self.args, self.cfg
        for line in self._compare():
            print(line)
            if args.quiet:
                self.log.show(f"{line}\n")
        if cfg.SEED >= 0:
            print(f"Setting fixed seed: {cfg.SEED}")

        import torch

        import datasets  # noqa: F401  (registers the data sets)
        import trainers  # noqa: F401  (registers the trainers)
        from dassl.engine import build_trainer
        from dassl.utils import collect_env_info, set_random_seed

        if cfg.SEED >= 0:
            set_random_seed(cfg.SEED)
        elif self.ranks is not None:
            set_random_seed(int(self.ranks.told(torch.seed() % 2**32)))
        if torch.cuda.is_available() and cfg.USE_CUDA:
            torch.backends.cudnn.benchmark = True
        trainer = build_trainer(cfg)
        if cfg.RESUME:
            trainer.check_resumed(cfg.RESUME)
        print("***************\n** Arguments **\n***************")
        for name, value in sorted(vars(args).items()):
            print(f"{name}: {value}")
        print(f"************\n** Config **\n************\n{cfg}")
        print(f"Collecting env info ...\n** System info **\n{collect_env_info()}\n")
        return trainer

    def _compare(self) -> list[str]:
        """Compare the settings with those of the training that is tested or gone on with.

        Returns:
            A line for each that may differ and does.
        """
        from anprompt.runs.checkpoints import model_dir
        from anprompt.runs.config import compare_with_training
        from anprompt.runs.folder import check_backbone, check_resumed
        from anprompt.runs.recorded import recorded_config

        cfg = self.cfg
        if not cfg.RUN.EVAL_ONLY:
            self.resumed = check_resumed(cfg, self.known)
            return [f"Resumed from {cfg.RESUME}: {phrase}" for phrase in self.resumed]
        if not cfg.RUN.MODEL_DIR:
            return []
        check_backbone(cfg)
        source = str(model_dir(cfg))
        lines = compare_with_training(cfg, recorded_config(source) or {}, source)
        return [f"Evaluated with {line}" for line in lines]

    def _load_model(self, trainer: "SimpleTrainer") -> None:
        """Load the checkpoint and note its digest, or test an untrained model."""
        from anprompt.runs.checkpoints import checkpoint_files, model_dir
        from anprompt.runs.folder import check_division
        from anprompt.runs.identity import checkpoint_digests
        from common.checkpoints import checkpoint_epoch

        epoch = self.args.load_epoch
        names = trainer.get_model_names()
        if self.args.model_dir and names:
            check_division(self.cfg, trainer.dm.dataset, self.known)
            folder = model_dir(self.cfg)
            files = checkpoint_files(self.cfg, names)
            self.checkpoint = checkpoint_digests(folder, files)
            epoch = checkpoint_epoch(files[0].rpartition("/")[2])
        trainer.load_model(self.args.model_dir, epoch=epoch)

    def _start(self, trainer: "SimpleTrainer") -> None:
        """Record what is run, and log to the run's folder from here on."""
        from anprompt.runs.folder import resumed_in
        from anprompt.runs.identity import identity_of, record_identity
        from anprompt.runs.recorded import record_config, recorded_config
        from common.files import remove_abandoned

        folder = Path(self.cfg.OUTPUT_DIR)
        for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
            remove_abandoned(place, is_held=self.lock.is_exclusive)
        # The log of a run that is taken up again goes on in one file, where parsers look.
        is_resumed = recorded_config(folder) is not None
        identity = identity_of(self.cfg, self.checkpoint, self.known)
        if not self.args.eval_only and (resumed := resumed_in(self.cfg, self.resumed)):
            identity["resumed"] = resumed
        record_identity(folder, identity)
        record_config(self.cfg)
        trainer.provenance |= {
            "identity": identity,
            "command": shlex.join(["python", "train.py", *self.argv]),
        }
        self.log.open(str(folder / "log.txt"), append=is_resumed)

    def _say_result(self) -> None:
        """Show the result where nothing else was shown."""
        from anprompt.runs.recorded import RESULTS, headline, read_results

        results = read_results(self.cfg.OUTPUT_DIR) if self.args.quiet else None
        if results is not None:
            path = Path(self.cfg.OUTPUT_DIR) / RESULTS
            measure, number = headline(results)
            self.log.show(f"{measure} {number:.1f}% ({path})\n")


if __name__ == "__main__":
    status = main()
    if "WORLD_SIZE" in os.environ:
        # All is written and flushed. PyTorch keeps the group's threads until the interpreter is
        # taken apart, which now and then aborts a process, and torchrun with it.
        os._exit(status)
    cli.leave(status)
