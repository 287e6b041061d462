"""What a category for anomaly detection has: its images and masks, in MVTec's layout."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from datasets.folders import counted, list_tree, note_on_others, shown
from datasets.splits import list_folder

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """An image to test on.

    Attributes:
        path: below the data set's image folder, as ``mask``.
        defect: its kind; "" for a normal image.
        mask: "" where there is none.
    """

    path: str
    defect: str = ""
    mask: str = ""


@dataclass
class Category:
    """What one category has.

    Attributes:
        train: normal images to learn from, sorted.
        problems: why it cannot be used, one line each.
        notes: what was passed over, one line each.
    """

    train: list[str] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Add what no training or test can do without to the problems."""
        kinds = {bool(sample.defect) for sample in self.test}
        if not self.train:
            self.problems.append("no normal images to learn from (train/good)")
        if kinds != {True, False}:
            missing = "anomalous" if kinds == {False} else "normal" if kinds else "any"
            self.problems.append(
                f"the test set has no {missing} images, and no AUROC is defined on it; it takes "
                f"test/{GOOD} and a folder of test/ for each kind of defect"
            )
        overlap = set(self.train) & {sample.path for sample in self.test}
        if overlap:
            self.problems.append(f"{min(overlap)} is to be learned from and tested on")
        anomalous = [sample for sample in self.test if sample.defect]
        bare = [sample.path for sample in anomalous if not sample.mask]
        if bare and len(bare) < len(anomalous):
            self.problems.append(
                f"{len(bare)} of {len(anomalous)} anomalous images have no mask, such as "
                f"{bare[0]}; give all of them one (an empty one for no anomalous pixel) or none"
            )


def read_mvtec(image_dir: str, folder: str) -> Category:
    """Read a category in MVTec's layout.

    ``train/good/*``, ``test/good/*``, ``test/DEFECT/*`` and, optional, masks
    ``ground_truth/DEFECT/NAME_mask.png`` (or ``NAME.png``).

    Args:
        folder: of the category, below ``image_dir``; "" for itself.
    """
    found = Category()
    found.train = _images(image_dir, folder, "train", GOOD)
    base = os.path.join(image_dir, folder)
    for defect in _folders(base, "test"):
        images = _images(image_dir, folder, "test", defect)
        masks = _images(image_dir, folder, "ground_truth", defect)
        if defect == GOOD:
            found.test += [Sample(path) for path in images]
            continue
        images_of, masks_of = _by_stem(images), _by_stem(masks, "_mask")
        for name, own in masks_of.items():
            if name not in images_of:
                found.problems.append(f"mask {own[0]} has no image in test/{defect}")
            elif len(own) > 1:
                found.problems.append(f"{own[0]} and {own[1]} are both a mask of one image")
            elif len(images_of[name]) > 1:
                first, second = images_of[name][:2]
                found.problems.append(f"{own[0]} may be the mask of {first} or of {second}")
        for path in images:
            found.test.append(Sample(path, defect, masks_of.get(_stem(path), [""])[0]))
    for defect in sorted(set(_folders(base, "ground_truth")) - set(_folders(base, "test"))):
        if _images(image_dir, folder, "ground_truth", defect):
            found.problems.append(f"ground_truth/{defect} has masks, test/{defect} is not there")
    found.check()
    return found


def _by_stem(paths: list[str], ending: str = "") -> dict[str, list[str]]:
    """Return paths by the name that an image and its mask share, sorted."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(_stem(path).removesuffix(ending), []).append(path)
    return dict(sorted(found.items()))


def left_out(image_dir: str, folder: str) -> list[str]:
    """Return a line on the images and one on the other files of a category that are not read."""
    base = os.path.join(image_dir, folder)
    listing = list_tree(base, "")
    read = {"train": [GOOD], "test": _folders(base, "test")}
    read["ground_truth"] = _folders(base, "ground_truth")
    places = {f"{part}/{name}" for part, names in read.items() for name in names}
    images = [path for path in listing.images if path.rpartition("/")[0] not in places]
    notes = [*listing.problems]
    if images:
        where = sorted({path.rpartition("/")[0] or "the folder itself" for path in images})
        notes.append(
            f"{counted(images, 'image')} left out, in {shown(where)}: images are read from "
            f"train/{GOOD} and the folders of test/, not from folders in these"
        )
    return notes + note_on_others(listing.others)


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]


def _folders(*parts: str) -> list[str]:
    place = os.path.join(*parts)
    return list_folder(place, folders=True) if os.path.isdir(place) else []


def _images(image_dir: str, *parts: str) -> list[str]:
    below = "/".join(filter(None, parts))
    place = os.path.join(image_dir, below)
    return [f"{below}/{name}" for name in list_folder(place)] if os.path.isdir(place) else []


def is_category(folder: str | os.PathLike) -> bool:
    """Return whether a folder looks like a category in MVTec's layout."""
    return all(os.path.isdir(os.path.join(folder, part, GOOD)) for part in ("train", "test"))


def categories_in(folder: str) -> list[str]:
    """Return the categories in a folder: sub-folders in MVTec's layout; [""] for itself."""
    if is_category(folder) or os.path.isdir(os.path.join(folder, "train", GOOD)):
        return [""]
    return [name for name in _folders(folder) if os.path.isdir(os.path.join(folder, name, "train"))]
