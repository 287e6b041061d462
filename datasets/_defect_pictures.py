"""The pictures of DefectTiles: four textures, and defects drawn on them with their masks.

All randomness comes from numpy's frozen ``RandomState`` seeded by category, split and number, so
the same pictures are drawn on every machine, in any order.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from datasets._shapes_pictures import smooth_noise

SIZE = 128  # pixels of the square pictures
DEFECTS = ("hole", "scratch", "stain")


def _grey(values: np.ndarray, tone: tuple[float, float, float]) -> np.ndarray:
    """(S, S) brightness around 0 and a tone -> (S, S, 3)."""
    return values[..., None] + np.array(tone)


def _concrete(rng: np.random.RandomState) -> np.ndarray:
    values = 7 * smooth_noise(SIZE, 6, 6, rng) + 9 * smooth_noise(SIZE, 48, 48, rng)
    return _grey(values + 5 * rng.standard_normal((SIZE, SIZE)), (150, 150, 146))


def _fabric(rng: np.random.RandomState) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    period, shift = 6.0 + rng.uniform(-0.2, 0.2), rng.uniform(0, 6, 2)
    weave = np.sin(2 * np.pi * (x + shift[0]) / period) * np.sin(
        2 * np.pi * (y + shift[1]) / period
    )
    return _grey(26 * weave + 5 * smooth_noise(SIZE, 24, 24, rng), (70, 92, 132))


def _metal(rng: np.random.RandomState) -> np.ndarray:
    lines = np.cumsum(rng.standard_normal((SIZE, 1)), axis=0)
    around = np.pad(lines[:, 0], 7, mode="edge")
    lines -= np.convolve(around, np.ones(15) / 15, mode="valid")[:, None]
    values = 7 * lines + 6 * smooth_noise(SIZE, 3, 40, rng) + 8 * smooth_noise(SIZE, 3, 3, rng)
    return _grey(values, (168, 172, 178))


def _wood(rng: np.random.RandomState) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    bend = 0.05 * smooth_noise(SIZE, 3, 5, rng)
    rings = np.sin(2 * np.pi * (9 + rng.uniform(-1, 1)) * (x + bend + 0.06 * y))
    values = 14 * rings + 8 * smooth_noise(SIZE, 60, 4, rng)
    return values[..., None] * np.array([1.0, 0.85, 0.6]) + np.array([172, 122, 74])


TEXTURES: dict[str, Callable[[np.random.RandomState], np.ndarray]] = {
    "concrete": _concrete,
    "fabric": _fabric,
    "metal": _metal,
    "wood": _wood,
}


def _drawn(rng: np.random.RandomState, defect: str) -> Image.Image:
    """Where a defect is, 0 to 255, smooth at its edge."""
    scale = 4
    mask = Image.new("L", (SIZE * scale, SIZE * scale))
    pen = ImageDraw.Draw(mask)
    centre = rng.uniform(0.2, 0.8, 2) * SIZE * scale
    if defect == "scratch":
        angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.25, 12))
        steps = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(12, 22) * scale / 3
        points = centre + np.cumsum(steps, axis=0)
        pen.line(
            [tuple(p) for p in points.tolist()], fill=255, width=int(rng.uniform(1.6, 3) * scale)
        )
    else:
        size = rng.uniform(4, 9) if defect == "hole" else rng.uniform(9, 18)
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        waves = [
            rng.normal(0, 0.12) * np.sin(wave * angle + rng.uniform(0, 6)) for wave in (2, 3, 5)
        ]
        radius = size * (1 + np.sum(waves, axis=0))
        points = centre + np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None] * scale
        pen.polygon([tuple(p) for p in points.tolist()], fill=255)
    return mask.resize((SIZE, SIZE), Image.Resampling.BOX)


def picture_of(
    category: str, split: str, defect: str, number: int
) -> tuple[Image.Image, Image.Image | None]:
    """Return a picture, and for one with a defect its mask (0 and 255).

    Args:
        category: one of ``TEXTURES``.
        split: train or test.
        defect: one of ``DEFECTS``; "" for a flawless picture.
    """
    place = [list(TEXTURES).index(category), split == "test", 1 + [*DEFECTS, ""].index(defect)]
    rng = np.random.RandomState([*map(int, place), number])  # noqa: NPY002
    pixels = TEXTURES[category](rng) + rng.uniform(-10, 10) + 6 * _slope(rng)[..., None]
    mask = None
    if defect:
        soft = _drawn(rng, defect)
        amount = np.asarray(soft.filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float64) / 255
        mask = soft.point(lambda value: 255 if value > 127 else 0)
        if defect == "hole":
            target = np.array([22.0, 20.0, 18.0]) + rng.uniform(-8, 8, 3)
            pixels = pixels + amount[..., None] * (target - pixels)
        else:
            sign = rng.choice([-1, 1]) if defect == "scratch" else -1
            change = sign * rng.uniform(45, 80) if defect == "scratch" else rng.uniform(-55, -30, 3)
            pixels = pixels + amount[..., None] * change
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), mask


def _slope(rng: np.random.RandomState) -> np.ndarray:
    """(S, S), light that falls off in one direction, -1 .. 1."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    return (np.cos(angle) * x + np.sin(angle) * y) / 2**0.5
