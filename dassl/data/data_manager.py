"""A data set with its loaders, as the configuration asks for."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tabulate import tabulate
from torch.utils.data import BatchSampler

from common.image_loader import ImageLoader
from common.ranks import here
from dassl.utils import UsageError

from .dataset_wrapper import DatasetWrapper
from .datasets import build_dataset
from .samplers import RepeatedBatches, SeededSampler, SharedBatches, build_sampler
from .transforms import build_transform

if TYPE_CHECKING:
    from dassl.config import Config

    from .datasets import DatasetBase, Datum

__all__ = ["DataManager", "DatasetWrapper", "build_data_loader"]

log = logging.getLogger(__name__)

# Open files that a worker process takes (pipes, and a descriptor for each tensor that is on its
# way), and those that the rest of the program does. With fewer, loading does not fail but hang.
FILES_PER_WORKER = 32
FILES_BESIDE = 96


def build_data_loader(
    cfg: "Config",
    sampler_type: str = "SequentialSampler",
    data_source: "Sequence[Datum] | None" = None,
    batch_size: int = 64,
    tfm: Callable | Sequence[Callable] | None = None,
    is_train: bool = True,
    dataset_wrapper: type | None = None,
    steps: int = 0,
    keeps_last: bool = False,
) -> ImageLoader:
    """Make a loader.

    In training the last, incomplete batch is dropped, unless it is the only one or ``keeps_last``.
    Workers stay alive between epochs. The loader takes from torch's global generator what the order
    and the transforms of a training epoch need and nothing else, whatever the number of workers.

    Where several processes share a run, each gets its images of every training batch, and its share
    of a test's batches; the order is that of one process.

    Args:
        cfg: the configuration.
        sampler_type: name of a sampler.
        data_source: the images.
        batch_size: images per batch.
        tfm: transform, or several.
        is_train: for training.
        dataset_wrapper: a class to use in place of :class:`DatasetWrapper`, called like it.
        steps: batches of an epoch, for which the images are read over and over; 0: each image once.
        keeps_last: whether training has the last, incomplete batch as well.

    Raises:
        UsageError: no images, or an unknown sampler.
    """
    if not data_source:
        raise UsageError("cannot load from an empty list of images")
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}; it takes at least one image")
    sampler = build_sampler(sampler_type, data_source)
    num_workers = _num_workers(cfg, len(data_source), batch_size)
    options: dict[str, Any] = {"transform": tfm, "is_train": is_train}
    wrapper = dataset_wrapper or DatasetWrapper
    if dataset_wrapper is None and is_train:
        options["cache_mb"] = cfg.DATALOADER.CACHE_IMAGES_MB / max(num_workers, 1)
    if is_train:
        takes_seeds = getattr(wrapper, "__getitem__", None) is DatasetWrapper.__getitem__
        sampler = SeededSampler(sampler, with_seeds=takes_seeds)
    generator = torch.Generator()
    if cfg.SEED >= 0:
        generator.manual_seed(cfg.SEED)
    drop_last = is_train and len(data_source) >= batch_size and not keeps_last
    order: dict[str, Any] = {"batch_size": batch_size, "sampler": sampler, "drop_last": drop_last}
    once = BatchSampler(sampler, batch_size, drop_last)
    batches = RepeatedBatches(once, steps) if steps else once
    if here().size > 1:
        order = {"batch_sampler": SharedBatches(batches, here().share(0), whole=not is_train)}
    elif steps:
        order = {"batch_sampler": batches}
    return ImageLoader(
        wrapper(cfg, data_source, **options),
        **order,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
        # Only the workers' own seeds come from this generator. Drawing them from the global one
        # would make the following random numbers depend on whether there are workers.
        generator=generator,
    )


def _num_workers(cfg: "Config", num_images: int, batch_size: int) -> int:
    """Return NUM_WORKERS, but no more than there are cores, batches, or open files allowed."""
    num_batches = -(-num_images // batch_size)
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    cores = max(cores // here().size, 1)
    wanted = max(min(cfg.DATALOADER.NUM_WORKERS, cores, num_batches), 0)
    possible = min(wanted, max((_open_files() - FILES_BESIDE) // FILES_PER_WORKER, 0))
    if possible < wanted:
        log.warning(
            "%d of %d workers read images: this shell allows %d open files (ulimit -n)",
            possible, wanted, _open_files(),
        )  # fmt: skip
    return possible


def _open_files() -> int:
    """Return how many files this process may have open, as many as it can get."""
    try:
        import resource
    except ImportError:  # Windows, where there is no such limit
        return 1 << 16
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 16
    wanted = FILES_BESIDE + 64 * FILES_PER_WORKER
    if soft < wanted and soft != hard:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


class DataManager:
    """The data set of a run, and its loaders.

    Args:
        cfg: the configuration.
        custom_tfm_train: use this transform for training instead of the configured one.
        custom_tfm_test: the same for validation and testing.
        dataset_wrapper, steps, keeps_last: see :func:`build_data_loader`; steps are those of
            training.

    Attributes:
        dataset: the data set.
        train_loader_x: training images.
        val_loader: validation images, or None.
        test_loader: test images.

    Raises:
        UsageError: unknown names, missing images, fewer than two classes, or an empty split.
    """

    def __init__(
        self,
        cfg: "Config",
        custom_tfm_train: Callable | Sequence[Callable] | None = None,
        custom_tfm_test: Callable | Sequence[Callable] | None = None,
        dataset_wrapper: type | None = None,
        steps: int = 0,
        keeps_last: bool = False,
    ):
        dataset = build_dataset(cfg)
        test = _check(cfg, dataset)
        if custom_tfm_train is None:
            tfm_train = build_transform(cfg, is_train=True)
        else:
            print("* Using custom transform for training")
            tfm_train = custom_tfm_train
        if custom_tfm_test is None:
            tfm_test = build_transform(cfg, is_train=False)
        else:
            print("* Using custom transform for testing")
            tfm_test = custom_tfm_test

        def loader(items: "Sequence[Datum]", is_train: bool) -> ImageLoader:
            node = cfg.DATALOADER.TRAIN_X if is_train else cfg.DATALOADER.TEST
            return build_data_loader(
                cfg,
                sampler_type=node.SAMPLER,
                data_source=items,
                batch_size=node.BATCH_SIZE,
                tfm=tfm_train if is_train else tfm_test,
                is_train=is_train,
                dataset_wrapper=dataset_wrapper,
                steps=steps if is_train else 0,
                keeps_last=keeps_last,
            )

        self.dataset = dataset
        self.train_loader_x = loader(dataset.train_x, True)
        self.val_loader = loader(dataset.val, False) if dataset.val else None
        self.test_loader = loader(test, False)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.dataset.num_classes

    @property
    def lab2cname(self) -> dict[int, str]:
        """Class names by label."""
        return self.dataset.lab2cname

    def show_dataset_summary(self, cfg: "Config") -> None:
        """Print name and sizes as a table."""
        rows = [("Dataset", cfg.DATASET.NAME)]
        if cfg.DATASET.SOURCE_DOMAINS:
            rows.append(("Source", str(cfg.DATASET.SOURCE_DOMAINS)))
        if cfg.DATASET.TARGET_DOMAINS:
            rows.append(("Target", str(cfg.DATASET.TARGET_DOMAINS)))
        rows.append(("# classes", f"{self.num_classes:,}"))
        for split in ("train_x", "val", "test"):
            items = getattr(self.dataset, split)
            if items:
                rows.append((f"# {split}", f"{len(items):,}"))
        print(tabulate(rows, disable_numparse=True))


def _check(cfg: "Config", dataset: "DatasetBase") -> "Sequence[Datum]":
    """Refuse what would otherwise fail later, less clearly; return the test images."""
    name = cfg.DATASET.NAME
    if not dataset.test:
        raise UsageError(f"{name} has no test images")
    dataset.verify()
    if dataset.is_checked:
        return dataset.test
    if dataset.num_classes < 2:
        raise UsageError(
            f"{name} has one class ({dataset.classnames[0]}) here; a classifier needs two or more"
        )
    splits = [("train", dataset.train_x), ("val", dataset.val or []), ("test", dataset.test)]
    for split, items in splits:
        missing = [item.impath for item in items if not os.path.isfile(item.impath)]
        if missing:
            raise UsageError(
                f"{name}: {len(missing)} of {len(items)} {split} images are missing, the first "
                f"is {missing[0]}; complete the data set below DATASET.ROOT "
                f"({cfg.DATASET.ROOT!r})"
            )
    return dataset.test
