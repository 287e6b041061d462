"""A data set with its loaders, as the configuration asks for."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

from dassl.utils import UsageError

from .dataset_wrapper import DatasetWrapper
from .datasets import build_dataset
from .samplers import SeededSampler, build_sampler
from .transforms import build_transform

if TYPE_CHECKING:
    from dassl.config import Config

    from .datasets import DatasetBase, Datum

log = logging.getLogger(__name__)

__all__ = ["DataManager", "DatasetWrapper", "build_data_loader"]


def build_data_loader(
    cfg: "Config",
    sampler_type: str = "SequentialSampler",
    data_source: Sequence["Datum"] | None = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Callable | Sequence[Callable] | None = None,
    is_train: bool = True,
    dataset_wrapper: type | None = None,
) -> DataLoader:
    """Make a loader.

    In training the last, incomplete batch is dropped, unless it is the only one. Workers stay alive
    between epochs. The loader takes from torch's global generator what the order and the transforms
    of a training epoch need and nothing else, whatever the number of workers.

    Args:
        cfg: the configuration.
        sampler_type: name of a sampler.
        data_source: the images.
        batch_size: images per batch.
        n_domain, n_ins: see the domain and class samplers.
        tfm: transform, or several.
        is_train: for training.
        dataset_wrapper: a class to use in place of :class:`DatasetWrapper`, called like it.

    Raises:
        UsageError: no images, or numbers that do not fit together.
    """
    if not data_source:
        raise UsageError("cannot load from an empty list of images")
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}; it takes at least one image")
    sampler = build_sampler(
        sampler_type,
        cfg=cfg,
        data_source=data_source,
        batch_size=batch_size,
        n_domain=n_domain,
        n_ins=n_ins,
    )
    num_workers = _num_workers(cfg, len(data_source), batch_size)
    wrapper_options = {"transform": tfm, "is_train": is_train}
    if dataset_wrapper is None:
        dataset_wrapper = DatasetWrapper
        if is_train:
            wrapper_options["cache_mb"] = cfg.DATALOADER.CACHE_IMAGES_MB / max(num_workers, 1)
    generator = torch.Generator()
    if cfg.SEED >= 0:
        generator.manual_seed(cfg.SEED)
    loader = DataLoader(
        dataset_wrapper(cfg, data_source, **wrapper_options),
        batch_size=batch_size,
        sampler=SeededSampler(sampler) if is_train else sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
        # Only the workers' own seeds come from this generator. Drawing them from the global one
        # would make the following random numbers depend on whether there are workers.
        generator=generator,
    )
    if len(loader) == 0:
        raise UsageError(
            f"{sampler_type} finds no complete batch of {batch_size} in {len(data_source)} images"
        )
    return loader


def _num_workers(cfg: "Config", num_images: int, batch_size: int) -> int:
    """NUM_WORKERS, but no more than there are cores to run them or batches to prepare."""
    num_batches = -(-num_images // batch_size)
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(min(cfg.DATALOADER.NUM_WORKERS, cores, num_batches), 0)


class DataManager:
    """The data set of a run, and its loaders.

    Args:
        cfg: the configuration.
        custom_tfm_train: use this transform for training instead of the configured one.
        custom_tfm_test: the same for validation and testing.
        dataset_wrapper: see :func:`build_data_loader`.

    Attributes:
        dataset: the data set.
        train_loader_x: labelled training images.
        train_loader_u: unlabelled training images, or None.
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
    ):
        dataset = build_dataset(cfg)
        _check(cfg, dataset)
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

        def train_loader(items: Sequence["Datum"], node: "Config") -> DataLoader:
            return build_data_loader(
                cfg,
                sampler_type=node.SAMPLER,
                data_source=items,
                batch_size=node.BATCH_SIZE,
                n_domain=node.N_DOMAIN,
                n_ins=node.N_INS,
                tfm=tfm_train,
                is_train=True,
                dataset_wrapper=dataset_wrapper,
            )

        def test_loader(items: Sequence["Datum"]) -> DataLoader:
            return build_data_loader(
                cfg,
                sampler_type=cfg.DATALOADER.TEST.SAMPLER,
                data_source=items,
                batch_size=cfg.DATALOADER.TEST.BATCH_SIZE,
                tfm=tfm_test,
                is_train=False,
                dataset_wrapper=dataset_wrapper,
            )

        loaders = cfg.DATALOADER
        node_u = loaders.TRAIN_X if loaders.TRAIN_U.SAME_AS_X else loaders.TRAIN_U
        self.dataset = dataset
        self.train_loader_x = train_loader(dataset.train_x, loaders.TRAIN_X)
        self.train_loader_u = train_loader(dataset.train_u, node_u) if dataset.train_u else None
        self.val_loader = test_loader(dataset.val) if dataset.val else None
        self.test_loader = test_loader(dataset.test)
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.dataset.num_classes

    @property
    def num_source_domains(self) -> int:
        """Number of source domains that the configuration names."""
        return self._num_source_domains

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
        for split in ("train_x", "train_u", "val", "test"):
            items = getattr(self.dataset, split)
            if items:
                rows.append((f"# {split}", f"{len(items):,}"))
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        rule = "  ".join("-" * width for width in widths)
        lines = [f"{name:<{widths[0]}}  {value}" for name, value in rows]
        print("\n".join([rule, *lines, rule]))


def _check(cfg: "Config", dataset: "DatasetBase") -> None:
    """Refuse what would otherwise fail later, less clearly."""
    name = cfg.DATASET.NAME
    if dataset.num_classes < 2:
        raise UsageError(
            f"{name} has one class ({dataset.classnames[0]}) here; a classifier needs two or more"
        )
    if not dataset.test:
        raise UsageError(f"{name} has no test images")
    dataset.verify()
    if not dataset.val and cfg.TEST.FINAL_MODEL == "best_val":
        log.warning("%s has no validation images: the best epoch is chosen on the test set", name)
    if dataset.is_checked:
        return
    splits = [("train", dataset.train_x), ("val", dataset.val), ("test", dataset.test)]
    for split, items in splits:
        missing = [item.impath for item in items or () if not os.path.isfile(item.impath)]
        if missing:
            raise UsageError(
                f"{name}: {len(missing)} of {len(items)} {split} images are missing, the first is "
                f"{missing[0]}; complete the data set below DATASET.ROOT ({cfg.DATASET.ROOT!r})"
            )
