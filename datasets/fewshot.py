"""Few-shot sets: drawn as upstream draws them, kept as JSON, and upstream's own caches read.

Upstream (Dassl's ``generate_fewshot_dataset``, CoOp's data sets) seeds Python's generator once at
start-up and samples before anything else uses it. A private generator with the run's seed therefore
gives the same images, and does not care what ran before.
"""

import hashlib
import io
import logging
import os
import pickle
import random
import re
import stat
from collections import Counter
from pathlib import Path

from common.errors import UsageError, one_line
from common.files import remove_abandoned, write_json
from common.pickles import check_pickle
from common.reading import MissingFile, read_bytes, read_json
from datasets.splits import Entry, split_digest

_Kept = tuple[tuple[list[Entry], list[Entry]], str | None]  # a set, and the digest that it says

FORMAT = 2  # 1 had no digest of its own content

log = logging.getLogger(__name__)


def sample(entries: list[Entry], shots: int, rng: random.Random) -> list[Entry]:
    """``shots`` entries a class (all where it has fewer), classes in order of first appearance."""
    by_label: dict[int, list[Entry]] = {}
    for entry in entries:
        by_label.setdefault(entry[1], []).append(entry)
    chosen = []
    for group in by_label.values():
        # Upstream draws nothing from the generator for a class that is too small: neither may we.
        chosen.extend(rng.sample(group, shots) if len(group) >= shots else group)
    return chosen


def draw(
    train: list[Entry], val: list[Entry], shots: int, seed: int
) -> tuple[list[Entry], list[Entry]]:
    """Draw the training set, then min(shots, 4) validation images a class, from one generator."""
    rng = random.Random(seed if seed >= 0 else None)
    return sample(train, shots, rng), sample(val, min(shots, 4), rng)


def user_cache() -> Path:
    """For caches that cannot stand beside the data: $ANPROMPT_CACHE or ~/.cache/anprompt."""
    return Path(os.environ.get("ANPROMPT_CACHE") or "~/.cache/anprompt").expanduser()


def is_writable(folder: str | os.PathLike) -> bool:
    """Whether files may be put here; what nobody may write to is read-only for root too."""
    folder = Path(folder)
    while not folder.exists():
        folder = folder.parent
    any_write = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    return bool(folder.stat().st_mode & any_write) and os.access(folder, os.W_OK)


def check_set(
    chosen: list[Entry], entries: list[Entry], shots: int, path: Path, split: str = "training"
) -> None:
    """Refuse a set that has an image twice, or not ``shots`` of a class (all, where it has fewer).

    Args:
        entries: what the set was drawn from.

    Raises:
        UsageError: naming the first class or image.
    """
    counts = Counter(entry[1] for entry in chosen)
    there = Counter(entry[1] for entry in entries)
    mend = "remove it to draw the set here"
    for _, label, classname in entries:
        if counts[label] != min(shots, there[label]):
            raise UsageError(
                f"{path}: {counts[label]} {split} images of class {classname!r} (label {label}) "
                f"in a set of {shots} a class; {mend}"
            )
    for image, count in Counter(entry[0] for entry in chosen).items():
        if count > 1:
            raise UsageError(f"{path}: {image} is in the {split} set {count} times; {mend}")


def _foreign(path: Path, image: str, label: int) -> UsageError:
    return UsageError(
        f"{path} is not of this split, which has no {image!s:.200} with label {label!s:.40} in "
        "that split; remove it to draw the set here"
    )


class FewShotCache:
    """The few-shot sets of one data set, under ``<data set>/split_fewshot``.

    ``shot_{k}-seed_{s}.json`` is ours; one of another split, or a damaged one, is drawn anew.
    ``shot_{k}-seed_{s}.pkl`` is upstream's: where one is present it is used, so that published
    few-shot sets carry over. A file that asks for other images than the split's, or one of ours
    that was changed since it was drawn, is refused.

    Args:
        dataset_dir: the data set's folder, or None to use the user's cache folder only.
        name: registered name of the data set.
        key: what tells this data set from another of that name in the user's cache folder.
    """

    def __init__(self, dataset_dir: str | os.PathLike | None, name: str, key: str):
        self.name = name
        self.beside = Path(dataset_dir) / "split_fewshot" if dataset_dir else None
        tag = hashlib.sha256(os.fsencode(key)).hexdigest()[:12]
        self.fallback = user_cache() / "split_fewshot" / f"{name}-{tag}"

    def holds(self, shots: int, seed: int) -> bool:
        """Return whether a set is kept."""
        stem = f"shot_{shots}-seed_{seed}"
        beside = [self.beside / f"{stem}{end}" for end in (".pkl", ".json")] if self.beside else []
        return any(path.is_file() for path in (*beside, self.fallback / f"{stem}.json"))

    def get(
        self, train: list[Entry], val: list[Entry], shots: int, seed: int, keep: bool = True
    ) -> tuple[list[Entry], list[Entry]]:
        """Return the few-shot train and val lists: from upstream's cache, from ours, or drawn.

        Args:
            train, val: the full lists.
            shots: images a class; of val at most 4.
            seed: negative: drawn at random.
            keep: keep what is drawn, and say where. Otherwise nothing is written or said.

        Raises:
            UsageError: a cache names an image that the split does not have, or is not a set of
                ``shots`` images a class (val: at most 4; the first offender is named), or was
                changed since it was drawn.
        """
        say = log.info if keep else log.debug
        stem = f"shot_{shots}-seed_{seed}"
        digest = split_digest((train, val))
        files = [self.beside / f"{stem}.pkl"] if self.beside else []
        files += [folder / f"{stem}.json" for folder in filter(None, (self.beside, self.fallback))]
        for path in files:
            is_upstreams = path.suffix == ".pkl"
            if is_upstreams:
                found = self._from_upstream(path, train, val)
            else:
                found = self._from_json(path, train, val, digest, keep)
            if found is None:
                continue
            chosen, own_digest = found
            check_set(chosen[0], train, shots, path)
            if chosen[1]:  # upstream keeps none where validation images are not few-shot
                check_set(chosen[1], val, min(shots, 4), path, "validation")
            if not is_upstreams:
                if own_digest is None and seed >= 0:
                    own_digest = split_digest(draw(train, val, shots, seed))
                if own_digest not in (None, split_digest(chosen)):
                    raise UsageError(
                        f"{path} was changed since it was drawn; remove it to draw the set here"
                    )
            say("Few-shot set%s: %s", " of upstream" if is_upstreams else "", path)
            return chosen
        chosen = draw(train, val, shots, seed)
        if keep:
            self._keep(f"{stem}.json", shots, seed, digest, chosen)
        return chosen

    def _from_json(
        self, path: Path, train: list[Entry], val: list[Entry], digest: str, keep: bool
    ) -> _Kept | None:
        """Return the set that a file of ours holds and the digest that it says it has."""
        problem = ""
        try:
            content = read_json(path)
            if content["format"] not in (1, FORMAT):
                problem = "is of another version"
            elif content["split_sha256"] != digest:
                problem = "is of another split"
            asked = [[(p, k, c) for p, k, c in content[split]] for split in ("train", "val")]
            known = [{entry: entry for entry in entries} for entries in (train, val)]
            found = [[known[i].get(entry) for entry in asked[i]] for i in range(2)]
            own_digest = content["sha256"] if content["format"] == FORMAT else None
        except MissingFile:
            return None
        except (UsageError, KeyError, TypeError, ValueError):
            problem = problem or "is damaged"
        if problem:
            if keep:
                log.warning("%s %s: drawn anew", path, problem)
            return None
        for entries, got in zip(asked, found, strict=True):
            if None in got:
                raise _foreign(path, *entries[got.index(None)][:2])
        chosen_train, chosen_val = ([entry for entry in got if entry] for got in found)
        return (chosen_train, chosen_val), own_digest

    def _from_upstream(self, path: Path, train: list[Entry], val: list[Entry]) -> _Kept | None:
        if not path.is_file():
            return None
        content = read_upstream_cache(path)
        chosen: tuple[list[Entry], list[Entry]] = ([], [])
        for split, known, entries in zip(("train", "val"), (train, val), chosen, strict=True):
            by_path = {entry[0]: entry for entry in known}
            for impath, label, classname in content.get(split, []):
                entry = by_path.get(_reroot(impath, by_path) or "")
                if entry is None or entry[1:] != (label, classname):
                    raise _foreign(path, impath, label)
                entries.append(entry)
        return chosen, None

    def _keep(
        self, name: str, shots: int, seed: int, digest: str, chosen: tuple[list, list]
    ) -> None:
        content = {
            "format": FORMAT,
            "dataset": self.name,
            "shots": shots,
            "seed": seed,
            "split_sha256": digest,
            "sha256": split_digest(chosen),
            "train": chosen[0],
            "val": chosen[1],
        }
        for folder in filter(None, (self.beside, self.fallback)):
            if not is_writable(folder):
                continue
            try:
                folder.mkdir(parents=True, exist_ok=True)
                remove_abandoned(folder)
                write_json(content, str(folder / name))
            except OSError:
                continue
            log.info("Few-shot set drawn and kept: %s", folder / name)
            return
        log.info("Few-shot set drawn; no folder to keep %s in", name)


class _Record:
    """Stands in for Dassl's Datum while a pickle is read: holds attributes, does nothing."""


class _CacheReader(pickle.Unpickler):
    """Reads pickles made of Datum objects and plain containers, and refuses every other name."""

    def find_class(self, module: str, name: str):
        if name == "Datum" and module.startswith("dassl.data.datasets"):
            return _Record
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("it refers to outside objects")


def read_upstream_cache(path: str | os.PathLike) -> dict[str, list[Entry]]:
    """Entries (with upstream's absolute paths) of a ``shot_*-seed_*.pkl`` written by upstream.

    Nothing but Dassl's Datum and plain containers is ever constructed.

    Raises:
        UsageError: the file is something else, or damaged.
    """
    try:
        pickled = read_bytes(Path(path))
        check_pickle(pickled)
        content = _CacheReader(io.BytesIO(pickled)).load()
        return {
            split: [(item._impath, item._label, item._classname) for item in content[split]]
            for split in ("train", "val")
            if split in content
        }
    except Exception as error:  # a damaged pickle can fail in any way while it is read
        raise UsageError(
            f"{path}: not a few-shot cache of upstream ({one_line(error):.200}); remove it to draw "
            "the set here"
        ) from None


def _reroot(impath: str, known: dict) -> str | None:
    """The longest relative path in ``known`` that an absolute path of another machine ends with."""
    names = re.split(r"[\\/]+", impath) if isinstance(impath, str) else []
    for start in range(len(names)):
        candidate = "/".join(names[start:])
        if candidate in known:
            return candidate
    return None
