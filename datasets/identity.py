"""Tell whether a run would read the same data as another: digests instead of names and times.

Needs no PyTorch and decodes nothing, so that a finished run is recognised at once.
"""

from typing import Any

from common.paths import seen_from
from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import FewShotDataset, Reader
from datasets.splits import Entry, Lists, split_digest
from datasets.verify import Files


def identity(cfg: Any, known: dict[tuple, Any] | None = None) -> dict[str, str]:
    """Return digests of the data that a configuration names.

    Keys:
        train, val, test: the full lists, before the few-shot draw and before base or new classes
            are taken: path, label and class name of every image, in order.
        few_shot: the images drawn for ``NUM_SHOTS`` and ``SEED``; absent without a draw, and where
            it is random (``SEED`` negative and nothing kept yet).
        train_files, test_files: the image files that training and test read, by size, and by
            content where they are few and small. Files of validation images count as training's.

    A data set that is read and drawn in a way of its own says its digests itself (``digests()``).
    Equal digests mean equal data; of what has no key here nothing is said.

    Args:
        cfg: reads ``DATASET`` and ``SEED``.
        known: filled here: pass one dictionary for many runs over the same data, as in planning a
            sweep. Data must not change in between.

    Raises:
        UsageError: as building the data set does.
    """
    known = {} if known is None else known
    dataset_class = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if hasattr(dataset_class, "digests"):
        return dataset_class(cfg).digests()
    if not (isinstance(dataset_class, type) and issubclass(dataset_class, FewShotDataset)):
        return _identity_of_lists(dataset_class(cfg), cfg.DATASET.ROOT)
    options = dataset_class.options_of(cfg)
    source = (dataset_class, cfg.DATASET.ROOT, *sorted(options.items()))
    if source not in known:
        reader = dataset_class.reader(cfg.DATASET.ROOT, **options)
        lists = reader.read()
        digests = _list_digests(lists)
        digests["test_files"] = Files(reader.image_dir, _paths(lists[2])).digest()
        known[source] = reader, lists, digests
    reader, lists, digests = known[source]
    shots = 0 if reader.test_is_train else max(cfg.DATASET.NUM_SHOTS, 0)
    reads_all = bool(cfg.DATASET.get("UNLABELLED", False))
    run = (source, shots, cfg.SEED if shots else 0, reads_all)
    if run not in known:
        known[run] = _training_digests(reader, lists, shots, cfg.SEED, reads_all)
    return {**digests, **known[run]}


def _training_digests(
    reader: Reader, lists: Lists, shots: int, seed: int, reads_all: bool
) -> dict[str, str]:
    """Return ``few_shot`` and ``train_files``, of all training images where all are read."""
    if reader.test_is_train:
        return {}
    train, val, _ = lists
    digests = {}
    if shots:
        cache = reader.few_shot_cache()
        if seed < 0 and not cache.holds(shots, seed):
            return {}
        train, val = cache.get(train, val, shots, seed, keep=False)
        digests["few_shot"] = split_digest((train, val))
    read = lists[0] if reads_all else train
    digests["train_files"] = Files(reader.image_dir, _paths(read, val)).digest()
    return digests


def _identity_of_lists(dataset: Any, root: str) -> dict[str, str]:
    """Return the digests of a data set in Dassl's own terms, already drawn."""
    lists = [
        [(seen_from(item.impath, root or "."), item.label, item.classname) for item in items]
        for items in (dataset.train_x, dataset.val or [], dataset.test or [])
    ]
    train, val, test = lists
    digests = _list_digests((train, val, test))
    digests["train_files"] = Files(root, _paths(train, val)).digest()
    digests["test_files"] = Files(root, _paths(test)).digest()
    return digests


def _list_digests(lists: Lists) -> dict[str, str]:
    names = ("train", "val", "test")
    return {name: split_digest([entries]) for name, entries in zip(names, lists, strict=True)}


def _paths(*lists: list[Entry]) -> list[str]:
    return [path for entries in lists for path, _, _ in entries]
