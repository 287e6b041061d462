"""ImageNet-C: its fifteen test corruptions and four validation corruptions, made in memory.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", 2019, https://arxiv.org/abs/1903.12261. Parameters, sizes and order of the steps are
those of the released code [A: github.com/hendrycks/robustness, 8190fe3]: one table for 224 pixels
(ImageNet-C), one for 64 (Tiny-ImageNet-C), one for 32 (CIFAR-10-C). Values are cut to whole
numbers, and pictures of 224 and 64 pixels are saved as JPEG of quality 85 and read again, as the
released files were. Figures made in memory come close to those on the released files but are not
the same: the random draws differ.

The four validation kinds are for choosing settings; do not choose them on the fifteen reported.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from noise import corruptions
from noise.corruptions import Operation
from noise.kinds import check_severity, get_kind

SIZES = (224, 64, 32)
SAVED_AS_JPEG = {224: True, 64: True, 32: False}  # CIFAR-10-C is an array
JPEG_QUALITY = 85
RESIZED_TO = {224: 256, 64: 64, 32: 32}  # short side before the centre is cut out
FROST_SHRINKS = {224: 1.0, 64: 0.3, 32: 0.2}
CATEGORIES = ("noise", "blur", "weather", "digital")


@dataclass(frozen=True)
class Corruption:
    """A kind of ImageNet-C.

    Attributes:
        category: one of `CATEGORIES`, or "extra" for validation kinds.
        values: parameters at severities 1 to 5, by size of the picture.
        draws: False where no random numbers are used.
    """

    operation: Operation
    category: str
    values: dict[int, Sequence[Any]]
    draws: bool = True


def _elastic(unit: int, *values: tuple[float, float, float]) -> list[tuple[float, ...]]:
    return [tuple(unit * value for value in own) for own in values]


_BRIGHTER = (0.1, 0.2, 0.3, 0.4, 0.5)
_FADED = (0.4, 0.3, 0.2, 0.1, 0.05)
_ZOOMED = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
_SNOW = (
    (0.1, 0.2, 1, 0.6, 8, 3),
    (0.1, 0.2, 1, 0.5, 10, 4),
    (0.15, 0.3, 1.75, 0.55, 10, 4),
    (0.25, 0.3, 2.25, 0.6, 12, 6),
    (0.3, 0.3, 1.25, 0.65, 14, 12),
)  # fmt: skip

TEST_KINDS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(corruptions.gaussian_noise, "noise", {
        224: (0.08, 0.12, 0.18, 0.26, 0.38),
        64: (0.04, 0.08, 0.12, 0.15, 0.18),
        32: (0.04, 0.06, 0.08, 0.09, 0.10),
    }),
    "shot_noise": Corruption(corruptions.shot_noise, "noise", {
        224: (60, 25, 12, 5, 3), 64: (250, 100, 50, 30, 15), 32: (500, 250, 100, 75, 50),
    }),
    "impulse_noise": Corruption(corruptions.impulse_noise, "noise", {
        224: (0.03, 0.06, 0.09, 0.17, 0.27),
        64: (0.01, 0.02, 0.05, 0.08, 0.14),
        32: (0.01, 0.02, 0.03, 0.05, 0.07),
    }),
    "defocus_blur": Corruption(corruptions.defocus_blur, "blur", {
        224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    }, draws=False),
    "glass_blur": Corruption(corruptions.glass_blur, "blur", {
        224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    }),
    "motion_blur": Corruption(corruptions.motion_blur, "blur", {
        224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    }),
    "zoom_blur": Corruption(corruptions.zoom_blur, "blur", {
        224: ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        64: _ZOOMED,
        32: _ZOOMED,
    }, draws=False),
    "snow": Corruption(corruptions.snow, "weather", {
        224: (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        64: [(*own, mix) for own, mix in zip(_SNOW, (0.8, 0.8, 0.7, 0.65, 0.6), strict=True)],
        32: [(*own, mix) for own, mix in zip(_SNOW, (0.95, 0.9, 0.9, 0.85, 0.8), strict=True)],
    }),
    "frost": Corruption(corruptions.frost, "weather", {  # type: ignore[arg-type]
        224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        64: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    }),
    "fog": Corruption(corruptions.fog, "weather", {
        224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    }),
    "brightness": Corruption(corruptions.brightness, "weather", {
        224: _BRIGHTER, 64: _BRIGHTER, 32: (0.05, 0.1, 0.15, 0.2, 0.3),
    }, draws=False),
    "contrast": Corruption(corruptions.contrast, "digital", {
        224: _FADED, 64: _FADED, 32: (0.75, 0.5, 0.4, 0.3, 0.15),
    }, draws=False),
    # In the released code 244 stands where 224 was meant, and the released files have it.
    "elastic_transform": Corruption(corruptions.elastic_transform, "digital", {
        224: _elastic(
            244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02),
            (0.12, 0.01, 0.02),
        ),
        64: _elastic(
            64, (0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03),
            (0.16, 0.03, 0.02),
        ),
        32: _elastic(
            32, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
    }),
    "pixelate": Corruption(corruptions.pixelate, "digital", {
        224: (0.6, 0.5, 0.4, 0.3, 0.25),
        64: (0.9, 0.8, 0.7, 0.6, 0.5),
        32: (0.95, 0.9, 0.85, 0.75, 0.65),
    }, draws=False),
    "jpeg_compression": Corruption(corruptions.jpeg_compression, "digital", {
        224: (25, 18, 15, 10, 7), 64: (65, 58, 50, 40, 25), 32: (80, 65, 58, 50, 40),
    }, draws=False),
}  # fmt: skip

VALIDATION_KINDS: dict[str, Corruption] = {
    "speckle_noise": Corruption(corruptions.speckle_noise, "extra", {
        224: (0.15, 0.2, 0.35, 0.45, 0.6),
        64: (0.15, 0.2, 0.25, 0.3, 0.35),
        32: (0.06, 0.1, 0.12, 0.16, 0.2),
    }),
    "gaussian_blur": Corruption(corruptions.gaussian_blur, "extra", {
        224: (1, 2, 3, 4, 6), 64: (0.5, 0.75, 1, 1.25, 1.5), 32: (0.4, 0.6, 0.7, 0.8, 1),
    }, draws=False),
    "spatter": Corruption(corruptions.spatter, "extra", {
        224: (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
        64: (
            (0.62, 0.1, 0.7, 0.7, 0.6, 0),
            (0.65, 0.1, 0.8, 0.7, 0.6, 0),
            (0.65, 0.3, 1, 0.69, 0.6, 0),
            (0.65, 0.1, 0.7, 0.68, 0.6, 1),
            (0.65, 0.1, 0.5, 0.67, 0.6, 1),
        ),
        32: (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
    }),
    "saturate": Corruption(corruptions.saturate, "extra", {
        224: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    }, draws=False),
}  # fmt: skip

ALL_KINDS = {**TEST_KINDS, **VALIDATION_KINDS}


def nearest_size(side: int) -> int:
    """Return the size whose parameters fit pictures of ``side`` pixels best."""
    return min(SIZES, key=lambda size: max(size, side) / min(size, side))


def corrupt(
    image: Image.Image,
    kind: str,
    severity: int,
    rng: np.random.Generator,
    *,
    size: int,
    as_jpeg: bool | None = None,
    frost: Sequence[Image.Image] = (),
) -> Image.Image:
    """Return a corrupted copy of an image.

    Args:
        image: RGB and square; not changed.
        kind: a key of `ALL_KINDS`.
        severity: 1 to 5, or 0 for a plain copy.
        rng: e.g. ``rng_for(seed, "imagenet-c", relative_path, kind)``.
        size: whose table of parameters to take, one of `SIZES`.
        as_jpeg: save as JPEG and read again; None: as for the released files of that size.
        frost: the pictures that kind ``frost`` lays over images.

    Returns:
        RGB image of the same size.

    Raises:
        UsageError: unknown kind or severity.
        ValueError: an image that is not RGB or not square, or no frost for kind ``frost``.
    """
    known = get_kind(ALL_KINDS, kind, "ImageNet-C")
    severity = check_severity(severity)
    if getattr(image, "mode", None) != "RGB" or image.width != image.height:
        raise ValueError("ImageNet-C: wanted a square RGB image: crop and .convert('RGB') first.")
    if severity == 0:
        return image.copy()
    operation = known.operation
    if kind == "frost":
        if not frost:
            raise ValueError("ImageNet-C: kind frost needs its pictures, frost=[...].")
        operation = functools.partial(corruptions.frost, pictures=frost, shrink=FROST_SHRINKS[size])
    values = operation(image, known.values[size][severity - 1], rng)
    # Cut, not rounded, as the released code does.
    corrupted = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    if SAVED_AS_JPEG[size] if as_jpeg is None else as_jpeg:
        corrupted = corruptions.as_jpeg(corrupted, JPEG_QUALITY)
    return corrupted
