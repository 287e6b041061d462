"""RandAugment and two relatives, with Dassl's lists of operations and ranges.

[1] Cubuk et al., RandAugment, 2019, https://arxiv.org/abs/1909.13719
[2] Sohn et al., FixMatch, 2020, https://arxiv.org/abs/2001.07685

Every operation takes a PIL image and a strength within its range. Random choices come from python's
and NumPy's global generators, drawn in Dassl's order, so the same state gives the same image.
"""

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

Operation = Callable[[Image.Image, float], Image.Image]

_CUTOUT_COLOUR = (125, 123, 114)


def _affine(img: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    return img.transform(img.size, Image.Transform.AFFINE, coefficients)


def _signed(value: float) -> float:
    """``value`` or its negative, evenly."""
    return -value if random.random() > 0.5 else value


def shear_x(img: Image.Image, v: float) -> Image.Image:
    return _affine(img, (1, _signed(v), 0, 0, 1, 0))


def shear_y(img: Image.Image, v: float) -> Image.Image:
    return _affine(img, (1, 0, 0, _signed(v), 1, 0))


def translate_x(img: Image.Image, v: float) -> Image.Image:
    """Shift by a share of the width."""
    return _affine(img, (1, 0, _signed(v) * img.size[0], 0, 1, 0))


def translate_y(img: Image.Image, v: float) -> Image.Image:
    """Shift by a share of the height."""
    return _affine(img, (1, 0, 0, 0, 1, _signed(v) * img.size[1]))


def translate_x_pixels(img: Image.Image, v: float) -> Image.Image:
    return _affine(img, (1, 0, _signed(v), 0, 1, 0))


def translate_y_pixels(img: Image.Image, v: float) -> Image.Image:
    return _affine(img, (1, 0, 0, 0, 1, _signed(v)))


def rotate(img: Image.Image, v: float) -> Image.Image:
    """Turn by ``v`` degrees."""
    return img.rotate(_signed(v))


def auto_contrast(img: Image.Image, _: float) -> Image.Image:
    return ImageOps.autocontrast(img)


def invert(img: Image.Image, _: float) -> Image.Image:
    return ImageOps.invert(img)


def equalize(img: Image.Image, _: float) -> Image.Image:
    return ImageOps.equalize(img)


def identity(img: Image.Image, _: float) -> Image.Image:
    return img


def solarize(img: Image.Image, v: float) -> Image.Image:
    """Invert values from ``v`` up."""
    return ImageOps.solarize(img, v)


def solarize_add(img: Image.Image, v: float) -> Image.Image:
    """Brighten by ``v``, then invert values from 128 up."""
    brighter = np.clip(np.asarray(img).astype(np.int64) + v, 0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(brighter), 128)


def posterize(img: Image.Image, v: float) -> Image.Image:
    """Keep ``v`` bits per channel."""
    return ImageOps.posterize(img, int(v))


def contrast(img: Image.Image, v: float) -> Image.Image:
    return ImageEnhance.Contrast(img).enhance(v)


def color(img: Image.Image, v: float) -> Image.Image:
    return ImageEnhance.Color(img).enhance(v)


def brightness(img: Image.Image, v: float) -> Image.Image:
    return ImageEnhance.Brightness(img).enhance(v)


def sharpness(img: Image.Image, v: float) -> Image.Image:
    return ImageEnhance.Sharpness(img).enhance(v)


def cutout_pixels(img: Image.Image, v: float) -> Image.Image:
    """Cover a square of side ``v`` at a random place with grey."""
    width, height = img.size
    # NumPy's global generator, as in Dassl; the per-sample seed covers it.
    x = int(max(0, np.random.uniform(width) - v / 2))  # noqa: NPY002
    y = int(max(0, np.random.uniform(height) - v / 2))  # noqa: NPY002
    img = img.copy()
    ImageDraw.Draw(img).rectangle((x, y, min(width, x + v), min(height, y + v)), _CUTOUT_COLOUR)
    return img


# (operation, weakest, strongest)
RANDAUGMENT_OPERATIONS: list[tuple[Operation, float, float]] = [
    (auto_contrast, 0, 1),
    (equalize, 0, 1),
    (invert, 0, 1),
    (rotate, 0, 30),
    (posterize, 4, 8),
    (solarize, 0, 256),
    (solarize_add, 0, 110),
    (color, 0.1, 1.9),
    (contrast, 0.1, 1.9),
    (brightness, 0.1, 1.9),
    (sharpness, 0.1, 1.9),
    (shear_x, 0.0, 0.3),
    (shear_y, 0.0, 0.3),
    (cutout_pixels, 0, 40),
    (translate_x_pixels, 0.0, 100),
    (translate_y_pixels, 0.0, 100),
]

RANDAUGMENT2_OPERATIONS: list[tuple[Operation, float, float]] = [
    (auto_contrast, 0, 1),
    (brightness, 0.1, 1.9),
    (color, 0.1, 1.9),
    (contrast, 0.1, 1.9),
    (equalize, 0, 1),
    (identity, 0, 1),
    (invert, 0, 1),
    (posterize, 4, 8),
    (rotate, -30, 30),
    (sharpness, 0.1, 1.9),
    (shear_x, -0.3, 0.3),
    (shear_y, -0.3, 0.3),
    (solarize, 0, 256),
    (translate_x, -0.3, 0.3),
    (translate_y, -0.3, 0.3),
]

FIXMATCH_OPERATIONS: list[tuple[Operation, float, float]] = [
    (auto_contrast, 0, 1),
    (brightness, 0.05, 0.95),
    (color, 0.05, 0.95),
    (contrast, 0.05, 0.95),
    (equalize, 0, 1),
    (identity, 0, 1),
    (posterize, 4, 8),
    (rotate, -30, 30),
    (sharpness, 0.05, 0.95),
    (shear_x, -0.3, 0.3),
    (shear_y, -0.3, 0.3),
    (solarize, 0, 256),
    (translate_x, -0.3, 0.3),
    (translate_y, -0.3, 0.3),
]


class RandAugment:
    """``n`` random operations at one strength [1].

    Args:
        n: number of operations.
        m: strength from 0 to 30, the same for all.
    """

    def __init__(self, n: int = 2, m: float = 10):
        if not 0 <= m <= 30:
            raise ValueError(f"INPUT.RANDAUGMENT_M is between 0 and 30, got {m}")
        self.n = n
        self.m = m

    def __call__(self, img: Image.Image) -> Image.Image:
        for operation, low, high in random.choices(RANDAUGMENT_OPERATIONS, k=self.n):
            img = operation(img, self.m / 30 * (high - low) + low)
        return img


class RandAugment2:
    """``n`` random operations, each applied with probability ``p`` at a random strength."""

    def __init__(self, n: int = 2, p: float = 0.6):
        self.n = n
        self.p = p

    def __call__(self, img: Image.Image) -> Image.Image:
        for operation, low, high in random.choices(RANDAUGMENT2_OPERATIONS, k=self.n):
            if random.random() > self.p:
                continue
            img = operation(img, random.random() * (high - low) + low)
        return img


class RandAugmentFixMatch:
    """``n`` random operations at random strengths [2]."""

    def __init__(self, n: int = 2):
        self.n = n

    def __call__(self, img: Image.Image) -> Image.Image:
        for operation, low, high in random.choices(FIXMATCH_OPERATIONS, k=self.n):
            img = operation(img, random.random() * (high - low) + low)
        return img
