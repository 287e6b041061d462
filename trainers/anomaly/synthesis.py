"""Anomalies made of normal images: where the object is, regions on it, and noise in them.

All random numbers come from a generator seeded with the image's name, the step and the run's seed:
the same whatever ran before. Everything here is [O] unless marked; that anomalies are made by noise
is the paper's [P].

References:
    [0] Human-Free Automated Prompting for Vision-Language Anomaly Detection, 2024,
        https://arxiv.org/abs/2406.18197 (anomalies by noise, on the object)
    [1] Perlin, An image synthesizer, 1985
    [2] Otsu, A threshold selection method from gray-level histograms, 1979
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from common.late_import import import_late

KINDS = ("noise", "cutpaste")
BLURS = (0, 1, 3)  # pixels
AREAS = (0.002, 0.08)  # of the object's area
PERLIN_THRESHOLD = 0.5
COVER = (0.05, 0.90)  # a mask that covers less or more is none


def generator(key: str, step: int, seed: int, purpose: str) -> np.random.Generator:
    """Return the random numbers of one image at one step."""
    digest = hashlib.sha256(
        f"{purpose}\0{key}\0{step}\0{seed}".encode("utf-8", "surrogateescape")
    ).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def otsu(values: np.ndarray, bins: int = 256) -> float:
    """Return the threshold that leaves the least variance within both sides."""
    counts, edges = np.histogram(values, bins=bins)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
        between = np.where((below > 0) & (above > 0), below * above * gap**2, -1.0)
    return float(edges[1:-1][between.argmax()])


def object_mask(scores: np.ndarray) -> np.ndarray:
    """Return where the object is, of scores (H, W); everywhere where that covers too little or
    nearly all, as on a texture.
    """
    mask = scores > otsu(scores)
    return mask if COVER[0] <= mask.mean() <= COVER[1] else np.ones_like(mask)


def perlin(size: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return gradient noise (H, W), about -1 to 1, with ``cells`` waves down and across."""
    angles = rng.uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1))
    slopes = np.stack([np.sin(angles), np.cos(angles)])
    y, x = (np.arange(n) * (c / n) for n, c in zip(size, cells, strict=True))
    row, column = y.astype(int)[:, None], x.astype(int)[None]
    dy, dx = y[:, None] - row, x[None] - column

    def corner(down: int, right: int) -> np.ndarray:
        slope = slopes[:, row + down, column + right]
        return slope[0] * (dy - down) + slope[1] * (dx - right)

    def fade(t: np.ndarray) -> np.ndarray:
        return t**3 * (t * (6 * t - 15) + 10)

    upper = corner(0, 0) + fade(dx) * (corner(0, 1) - corner(0, 0))
    lower = corner(1, 0) + fade(dx) * (corner(1, 1) - corner(1, 0))
    return 2**0.5 * (upper + fade(dy) * (lower - upper))


def ellipse(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an ellipse (H, W) around a random place of the object, with 0.2 to 8% of its area."""
    places = np.argwhere(mask)
    centre = places[rng.integers(len(places))]
    area, ratio, angle = (
        rng.uniform(*AREAS) * mask.sum(),
        rng.uniform(0.2, 1),
        rng.uniform(0, np.pi),
    )
    long = (area / np.pi / ratio) ** 0.5
    y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    y, x = y - centre[0], x - centre[1]
    along, aside = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside = (along / max(long, 1)) ** 2 + (aside / max(long * ratio, 1)) ** 2 <= 1
    return inside & mask


def region(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one to three ellipses or thresholded Perlin noise on the object; never empty."""
    found = np.zeros_like(mask)
    if rng.random() < 0.5:
        cells = 2 ** int(rng.integers(1, 4)), 2 ** int(rng.integers(1, 4))
        found = (perlin(mask.shape, cells, rng) > PERLIN_THRESHOLD) & mask
    for _ in range(0 if found.any() else int(rng.integers(1, 4))):
        found |= ellipse(mask, rng)
    return found


def synthesise(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    kinds: Sequence[str] = ("noise",),
    strength: tuple[float, float] = (0.1, 0.6),
    is_whole: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a normal image with an anomaly, and where that is.

    Args:
        image: (3, H, W) in [0, 1].
        mask: (H, W), where the object is.
        kinds: of ``KINDS``; one is drawn. noise: image + s * noise, low-passed noise of unit
            variance, its channels alike or not; cutpaste: pixels of elsewhere in the image.
        strength: s is drawn evenly between these.
        is_whole: the whole object becomes anomalous instead of regions on it.
    """
    where = mask.copy() if is_whole else region(mask, rng)
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "cutpaste":
        shift = [int(rng.integers(n // 8 + 1, max(n - n // 8, n // 8 + 2))) for n in mask.shape]
        changed = np.roll(image, shift, axis=(1, 2))
    else:
        sigma, blur = rng.uniform(*strength), BLURS[int(rng.integers(len(BLURS)))]
        channels = 1 if rng.random() < 0.5 else len(image)
        noise = rng.standard_normal((channels, *mask.shape))
        if blur:
            smooth = import_late("scipy.ndimage").gaussian_filter
            noise = smooth(noise, sigma=(0, blur, blur), mode="wrap")
            noise = noise / noise.std()
        changed = np.clip(image + sigma * noise, 0, 1)
    return np.where(where, changed, image).astype(np.float32), where


def augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a normal image (3, H, W) that may be flipped, turned by up to 5 degrees, and lighter
    or darker, with more or less contrast, by up to a tenth.
    """
    if rng.random() < 0.5:
        image = image[:, :, ::-1]
    rotate = import_late("scipy.ndimage").rotate
    turned = rotate(image, rng.uniform(-5, 5), axes=(1, 2), reshape=False, order=1, mode="reflect")
    light, contrast = rng.uniform(0.9, 1.1, 2)
    return np.clip((turned - turned.mean()) * contrast + turned.mean() * light, 0, 1).astype(
        np.float32
    )
