"""A run on a data set, whatever its epochs are: resuming, checkpoints, tests, results."""

import datetime
import os
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from tqdm import tqdm
from yacs.config import CfgNode

from common.checkpoints import BEST
from common.paths import image_key
from common.provenance import provenance
from common.ranks import here
from dassl.config import check_config
from dassl.evaluation import Classification, Predictions, build_evaluator
from dassl.evaluation.kept import KeptPredictions, write_predictions
from dassl.evaluation.shared import Answer, in_order
from dassl.utils import UsageError
from dassl.utils.memory import process_peak_memory_mb

from . import checkpoints, results
from .base import TrainerBase
from .scalars import Curve


class SimpleTrainer(TrainerBase):
    """A run: data, model, resuming, training, validation, testing, results.

    Attributes:
        cfg: the configuration.
        device: where the model is.
        dm, train_loader_x, val_loader, test_loader: data (see ``DataManager``).
        num_classes, lab2cname: classes.
        headline_rule: which of several inference rules is reported; None for the first.
        shares_steps: whether the processes of a run can share its steps.
        keeps_last: whether training has the last, incomplete batch of an epoch as well.
        best_result: best accuracy on validation so far (percent), with TEST.FINAL_MODEL best_val.
        provenance: what ``results.json`` says of where its numbers come from.
        epoch_metrics: means over the last epoch of what its steps reported, by name.
    """

    headline_rule: str | None = None
    shares_steps = False
    keeps_last = False
    model: Any

    def __init__(self, cfg: CfgNode):
        super().__init__()
        check_config(cfg)
        self.check_cfg(cfg)
        if here().size > 1 and not self.shares_steps:
            raise UsageError(f"trainer {cfg.TRAINER.NAME} runs in one process, without torchrun")
        self.device = _own_device(torch.cuda.is_available() and cfg.USE_CUDA)
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.best_result = -float("inf")
        self.provenance: dict[str, Any] = provenance()
        self.epoch_metrics: dict[str, float] = {}
        self._curve = Curve(self.output_dir)
        self._earlier_peak_mb = 0.0
        # Finished epochs whose checkpoints go once the next epoch's are on disk.
        self._superseded: list[int] = []
        with here().first_goes_first():  # which may index the data set
            self.build_data_loader()
        if self._chooses_best() and self.val_loader is None:
            print(
                "TEST.FINAL_MODEL is best_val, but there are no validation images: "
                "the best epoch is chosen on the test set"
            )
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        if not self._models:
            self.trained_epochs = 0

    def check_cfg(self, cfg: CfgNode) -> None:
        """Refuse settings that the trainer cannot work with."""

    def build_data_loader(self) -> None:
        """Create the data set and its loaders."""
        from dassl.data import DataManager  # torchvision takes a second to import

        dm = DataManager(self.cfg, steps=self.steps_per_epoch(), keeps_last=self.keeps_last)
        self.dm = dm
        self.train_loader_x = dm.train_loader_x
        self.val_loader = dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.lab2cname = dm.lab2cname

    def steps_per_epoch(self) -> int:
        """Return how many batches an epoch of training has; 0: as many as there are images for."""
        return 0

    def build_model(self) -> None:
        """Create ``self.model`` and register what trains."""
        raise UsageError(
            f"trainer {type(self).__name__} has no build_model(): a trainer makes its model there "
            "(docs/ADDING_A_METHOD.md)"
        )

    def train(self) -> None:  # type: ignore[override]  # Dassl's signature
        """Train from where the run's folder stands, then test."""
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        """Resume if there is a checkpoint, and start the records.

        A run that has written a checkpoint goes on from it; a new one starts from RESUME, if given.

        Raises:
            UsageError: a checkpoint is damaged, of another run, or has more epochs behind it than
                are asked for; or RESUME has none.
        """
        has_started = checkpoints.exist(self.output_dir, self.get_model_names())
        if self.cfg.RESUME and not has_started:
            self._start_from(self.cfg.RESUME)
        else:
            self.start_epoch = self.resume_model_if_exist(self.output_dir)
            self._check_length(self.output_dir)
            self._curve.resume(self.start_epoch)
            if self.start_epoch:
                self._complete_epoch(self.start_epoch)
        self.epoch = max(self.start_epoch - 1, 0)  # also if no epoch is left to train
        self.init_writer(os.path.join(self.output_dir, "tensorboard"))
        tracker = self.cfg.TRAIN.get("TRACK", "")
        self._tracker.open(tracker, self.output_dir, results.as_plain(self.cfg))
        self.time_start = time.time()

    def _start_from(self, directory: str) -> None:
        """Begin with the state of a training in another folder, which stays as it is."""
        self.start_epoch = self.resume_model_if_exist(directory)
        if self.start_epoch == 0:
            raise UsageError(f"RESUME is {directory!r}, but there is no checkpoint in it")
        self._check_length(directory)
        self._superseded = []
        if self.start_epoch == self.max_epoch:  # nothing is left to train, and this run keeps it
            self.save_model(self.start_epoch - 1, self.output_dir)

    def _check_length(self, directory: str) -> None:
        if self.start_epoch > self.max_epoch:
            raise UsageError(
                f"{directory} has {self.start_epoch} epochs behind it, OPTIM.MAX_EPOCH is "
                f"{self.max_epoch}; ask for more epochs, or test it with --eval-only --model-dir "
                f"{directory}"
            )

    def _complete_epoch(self, num_epochs: int) -> None:
        """Do what a killed process had left to do after ``num_epochs`` epochs.

        It may have written the model that is best on validation and not yet the epoch's own
        checkpoint, or that one and not yet removed those before it.
        """
        if not checkpoints.has_epoch(self.output_dir, self.get_model_names(), num_epochs):
            self._save_epoch(num_epochs - 1)
        else:
            self._remove_superseded(num_epochs)

    def after_train(self) -> None:
        """Test the last or the best model."""
        print("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                print("Deploy the model with the best val performance")
                here().wait()  # for the first process to have written it
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        elapsed = datetime.timedelta(seconds=round(time.time() - self.time_start))
        print(f"Elapsed: {elapsed}")
        self.close_writer()

    def after_epoch(self) -> None:
        """Validate if asked for, then write the epoch's checkpoint and remove the one before it.

        The checkpoints of every CHECKPOINT_FREQ-th and of the last epoch stay.
        """
        metrics = dict(self.epoch_metrics)
        if self._chooses_best():
            metrics["val_accuracy"] = self.test(split="val")
        # Before any checkpoint of this epoch: a run that is resumed from one finds its line.
        self._curve.add(self.epoch + 1, metrics)
        result = metrics.get("val_accuracy")
        if result is not None and result > self.best_result:
            self.best_result = result
            self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST)
        self._save_epoch(self.epoch)

    def _chooses_best(self) -> bool:
        """Return whether every epoch is validated, and the best one tested."""
        return not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val"

    def _save_epoch(self, epoch: int) -> None:
        self.save_model(epoch, self.output_dir)
        self._remove_superseded(epoch + 1)
        self._superseded = [] if self._is_kept(epoch) else [epoch + 1]

    def _remove_superseded(self, num_epochs: int) -> None:
        """Remove the checkpoints that the one written after ``num_epochs`` epochs replaces."""
        for epoch in self._superseded:
            if epoch != num_epochs:
                checkpoints.remove(self.output_dir, self.get_model_names(), epoch)
        self._superseded = [epoch for epoch in self._superseded if epoch == num_epochs]

    def _is_kept(self, epoch: int) -> bool:
        """Return whether an epoch's checkpoint outlives the next one's."""
        freq = self.cfg.TRAIN.CHECKPOINT_FREQ
        return epoch + 1 == self.max_epoch or (freq > 0 and (epoch + 1) % freq == 0)

    def checkpoint_meta(self, epoch: int, model_name: str) -> dict[str, Any]:
        """Return numbers and names about the run that go into a checkpoint."""
        return {
            **super().checkpoint_meta(epoch, model_name),
            **self._origin(),
            "classnames": self._classnames(),
            # The epoch's own checkpoint goes after the next; the best one may stand for it.
            "rolling": not self._is_kept(epoch),
            "superseded": [earlier for earlier in self._superseded if earlier != epoch + 1],
            "best_result": self.best_result,
            "peak_memory_mb": self.peak_memory_mb(),
        }

    def _origin(self) -> dict[str, Any]:
        cfg = self.cfg
        return {"trainer": cfg.TRAINER.NAME, "dataset": cfg.DATASET.NAME, "seed": cfg.SEED}

    def _classnames(self) -> list[str]:
        return [str(name) for _, name in sorted(self.lab2cname.items())]

    def check_origin(self, directory: str, path: str, meta: dict[str, Any]) -> None:
        """Refuse a checkpoint in the run's own folder that another run wrote, and one elsewhere of
        a training on other classes.

        Raises:
            UsageError: names what differs.
        """
        own = {**self._origin(), "classnames": self._classnames()}
        if directory != self.output_dir:
            if meta.get("classnames", own["classnames"]) != own["classnames"]:
                raise UsageError(
                    f"{path} was trained on other classes than this run's, and a training goes on "
                    "with its own; begin a new one from what was learned there: MODEL.INIT_WEIGHTS "
                    "FILE"
                )
            return
        for key, value in own.items():
            if meta.get(key, value) != value:
                shown = "" if key == "classnames" else f" ({meta[key]!r} there, {value!r} here)"
                raise UsageError(
                    f"{path} was written by another run: its {key} differs{shown}; put this run's "
                    "own file back, or remove the folder"
                )

    def check_resumed(self, directory: str) -> None:
        """Refuse to go on from another folder's training that has no place in this one.

        Raises:
            UsageError: it was trained on other classes, or its checkpoint is damaged.
        """
        found = checkpoints.find_common(directory, self.get_model_names())
        for path, checkpoint in (found or {}).values():
            self.check_origin(directory, path, checkpoint["meta"])

    def restore_meta(self, epoch: int, meta: dict[str, Any]) -> None:
        """Continue counting from the numbers of the checkpoint written after ``epoch`` epochs."""
        super().restore_meta(epoch, meta)
        self.best_result = float(meta["best_result"])
        self._earlier_peak_mb = float(meta["peak_memory_mb"])
        superseded = [int(earlier) for earlier in meta["superseded"]]
        self._superseded = superseded + ([epoch] if meta["rolling"] else [])

    def peak_memory_mb(self) -> float:
        """Return the highest memory use of the run so far, before a resume too (MiB)."""
        return max(self._earlier_peak_mb, process_peak_memory_mb(self.device))

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on a split and print the metrics.

        Without ``split`` this is the final test, on TEST.SPLIT, and ``results.json`` is written,
        before anything is printed.

        Returns:
            The evaluator's first metric: accuracy in percent.
        """
        is_final = split is None
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = split or self.cfg.TEST.SPLIT
        if split == "val" and self.val_loader is not None:
            data_loader = self.val_loader
        else:
            split, data_loader = "test", self.test_loader
        print(f"Evaluate on the *{split}* set")

        started = time.perf_counter()
        evaluator: Any = self.evaluator
        is_builtin = type(evaluator) is Classification
        reported = evaluator.predictions if is_builtin else Predictions(self.lab2cname)
        rules: dict[str, Predictions] = {}
        headline_rule = self.headline_rule
        is_kept = is_final and self.cfg.TEST.get("SAVE_PREDICTIONS", False)
        images: Any = data_loader.dataset
        num_images = len(images)
        kept: dict[str, KeptPredictions] = {}
        paths: list[str] = []
        answered: Iterable[Answer] = map(self._answer, self.test_batches(data_loader))
        # Where processes share them, the loader has its own and the sampler knows all batches.
        shared = getattr(getattr(data_loader, "batch_sampler", None), "batches", None)
        batches = len(data_loader if shared is None else shared)
        if shared is not None:
            answered = in_order(iter(answered), batches, self.device)
        # No bar where stderr is no terminal.
        for answer in tqdm(answered, total=batches, disable=None if here().is_first else True):
            label, logits_by_rule = answer.label, answer.logits
            if None in logits_by_rule:
                logits = logits_by_rule[None]
            else:
                headline_rule = headline_rule or next(iter(logits_by_rule))
                logits = logits_by_rule[headline_rule]
                for name, rule_logits in logits_by_rule.items():
                    if name == headline_rule:
                        rules.setdefault(name, reported)
                    else:
                        rules.setdefault(name, Predictions(self.lab2cname)).add(rule_logits, label)
            if is_kept:
                for name in sorted(logits_by_rule, key=lambda name: name != headline_rule):
                    rule = kept.setdefault(name or "class", KeptPredictions(num_images))
                    rule.add(logits_by_rule[name], label)
                paths.extend(answer.paths)
            evaluator.process(logits, label)
            if not is_builtin:
                reported.add(logits, label)
        seconds = time.perf_counter() - started
        if not here().is_first:
            return here().told(0)

        if is_final:
            facts = self._facts(split, headline_rule if rules else None, seconds)
            confusions = self.cfg.TEST.COMPUTE_CMAT
            if is_kept:
                labels, _ = reported.arrays()  # refuses logits that are NaN
                facts["predictions"] = write_predictions(
                    self.output_dir, self._shown(paths), labels.tolist(), self._classnames(), kept
                )
        if is_final and is_builtin:
            results.write_results(
                self.output_dir, facts, reported, rules, with_confusions=confusions
            )
        metrics = evaluator.evaluate()
        if is_final and not is_builtin:
            more = {"evaluator": self._of_evaluator(metrics, reported)}
            results.write_results(
                self.output_dir, facts, reported, rules, with_confusions=confusions, more=more
            )
        if len(rules) > 1:
            metrics = {
                **metrics,
                **{f"accuracy_{name}": some.figures()["accuracy"] for name, some in rules.items()},
            }
        # At the last step, so that they share its axis with what training reports.
        step = (self.epoch + 1) * len(self.train_loader_x) - 1
        for name, value in metrics.items():
            self.write_scalar(f"{split}/{name}", value, step)
        return here().told(next(iter(metrics.values())))

    def _answer(self, batch: dict[str, Any]) -> Answer:
        """Return what the model makes of a test batch."""
        image, label = self.parse_batch_test(batch)
        logits: Any = self.model_inference_rules(image) or {None: self.model_inference(image)}
        return Answer(logits, label, batch.get("impath", []))

    def _shown(self, paths: list[str]) -> list[str]:
        """Return images' paths below the folder that holds the data set."""
        return [image_key(path, self.dm.dataset, self.cfg.DATASET.ROOT) for path in paths]

    def _of_evaluator(self, metrics: dict[str, Any], reported: Predictions) -> dict[str, Any]:
        """Return the metrics of a user's own evaluator, for ``results.json``.

        Prints a line where its accuracy is another than the one that tables take.
        """
        own: dict[str, Any] = {
            "name": self.cfg.TEST.EVALUATOR,
            "metrics": results.as_number(dict(metrics)),
        }
        accuracy, given = reported.figures()["accuracy"], metrics.get("accuracy")
        if isinstance(given, (int, float)) and abs(given - accuracy) > 1e-6:
            own["note"] = (
                f'its accuracy is {given:.2f}%; "accuracy" in this file, which tables show, is '
                f"top-1 accuracy, {accuracy:.2f}%"
            )
            print(f"Evaluator {own['name']}: {own['note'].replace('this file', 'results.json')}")
        return own

    def _facts(self, split: str, headline_rule: str | None, seconds: float) -> dict[str, Any]:
        """Return what ``results.json`` says beside the metrics of a test."""
        cfg = self.cfg
        return {
            "trainer": cfg.TRAINER.NAME,
            "dataset": cfg.DATASET.NAME,
            "dataset_title": getattr(self.dm.dataset, "title", cfg.DATASET.NAME),
            "split": split,
            "subsample_classes": cfg.DATASET.SUBSAMPLE_CLASSES,
            "classnames": self._classnames(),
            "shots": cfg.DATASET.NUM_SHOTS,
            # Fewer than "shots" where a class has not as many images.
            "fewest_shots": min(Counter(item.label for item in self.dm.dataset.train_x).values()),
            "takes_all": bool(getattr(self.dm.dataset, "takes_all", False)),
            "seed": cfg.SEED,
            "backbone": cfg.MODEL.BACKBONE.NAME,
            "headline_rule": headline_rule,
            "epochs": self.trained_epochs,
            "train_seconds": round(self.train_seconds, 3),
            "test_seconds": round(seconds, 3),
            "peak_memory_mb": round(self.peak_memory_mb(), 1),
            "device": results.device_name(self.device),
            **({"processes": here().size} if here().size > 1 else {}),
            "num_trainable": self.num_trainable,
            **self.provenance,
            "config": results.as_plain(cfg),
        }

    def test_batches(self, loader: Any) -> Iterable[dict[str, Any]]:
        """Return the batches of a test; a trainer may know what stands for their images."""
        batches: Iterable[dict[str, Any]] = loader
        return batches

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        return self.model(input)

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (B, 3, H, W) and labels (B,) on the device."""
        return self._to_device(batch["img"]), self._to_device(batch["label"])

    def _to_device(self, tensor: Any) -> Any:
        # From pinned memory the copy overlaps with computation.
        return tensor.to(self.device, non_blocking=True)


def _own_device(use_cuda: bool) -> torch.device:
    """Return where this process computes: with several on a machine, each has a GPU.

    Raises:
        UsageError: there are fewer GPUs.
    """
    if not use_cuda or here().size == 1:
        return torch.device("cuda" if use_cuda else "cpu")
    number, there = here().local_rank, torch.cuda.device_count()
    if number >= there:
        raise UsageError(
            f"{number + 1} or more processes on a machine with {there} GPUs: start torchrun with "
            f"--nproc-per-node {there} or fewer"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
