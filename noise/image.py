"""This project's own corruptions of PIL images at severities 1 to 5.

The idea of common corruptions at five severities is Hendrycks & Dietterich's ("Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations", 2019, https://arxiv.org/abs/1903.12261);
the parameters and the code here are this project's. Their code has values of its own for 224, 64
and 32 pixels. Here one value, for a short side of 224 pixels, follows the short side roughly as
theirs do: lengths and JPEG's quantisation step in proportion, noise and resolution with the square
root.

Corrupt what the model sees, i.e. after resizing and cropping: noise put on a large photograph is
mostly averaged away when that is made small.

Directions, places and Gaussian draws do not depend on the severity: with one seed, a higher
severity is more of the same noise.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from noise.kinds import check_severity, get_kind

# Grey, neither dark nor bright: what an occluder looks like.
OCCLUDER = (127, 127, 127)


def gaussian_noise(image: Image.Image, sigma: float, rng: np.random.Generator) -> Image.Image:
    """Independent Gaussian noise on every value; ``sigma`` at 224 pixels, intensities 0 to 1."""
    pixels = _pixels(image)
    sigma *= math.sqrt(_scale(image))
    return _image(pixels + sigma * rng.standard_normal(pixels.shape, dtype=np.float32))


def shot_noise(image: Image.Image, photons: float, rng: np.random.Generator) -> Image.Image:
    """Photon noise: counts are Poisson, with mean ``photons`` at full intensity and 224 pixels."""
    photons /= _scale(image)  # the noise falls with the root of the count
    return _image(rng.poisson(_pixels(image) * photons) / photons)


def blur(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Gaussian blur with a standard deviation of ``share`` of the short side. Draws nothing."""
    return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def motion_blur(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """The mean along a straight path of ``share`` of the short side, in a random direction."""
    angle = rng.uniform(0, math.pi)
    length = share * min(image.size)
    weights = _path_weights(length * math.cos(angle), length * math.sin(angle))
    margin = math.ceil(length / 2) + 1
    width, height = image.size
    padded = np.pad(_pixels(image), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    blurred = np.zeros((height, width, 3), dtype=np.float32)
    for (x, y), weight in weights.items():
        top, left = margin + y, margin + x
        blurred += weight * padded[top : top + height, left : left + width]
    return _image(blurred)


def jpeg(image: Image.Image, step: float, rng: np.random.Generator) -> Image.Image:
    """JPEG compression; ``step`` times the standard quantisation at 224 pixels. Draws nothing."""
    step *= _scale(image)
    # The inverse of libjpeg's scale: quality 50 is step 1, 25 is 2, 75 is 0.5.
    quality = 50 / step if step > 1 else 100 - 50 * step
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=max(1, min(95, round(quality))))
    return Image.open(buffer).convert("RGB")


def brightness(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    """Intensities multiplied or, equally often, divided by ``factor``."""
    brighter = rng.random() < 0.5
    return ImageEnhance.Brightness(image).enhance(factor if brighter else 1 / factor)


def contrast(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    """Distances from the image's mean grey times ``factor``. Draws nothing."""
    return ImageEnhance.Contrast(image).enhance(factor)


def occlusion(image: Image.Image, area: float, rng: np.random.Generator) -> Image.Image:
    """A grey rectangle of the image's proportions that covers ``area`` of it, at a random place."""
    width, height = (max(1, round(math.sqrt(area) * side)) for side in image.size)
    left = round(rng.random() * (image.width - width))
    top = round(rng.random() * (image.height - height))
    occluded = image.copy()
    occluded.paste(OCCLUDER, (left, top, left + width, top + height))
    return occluded


def low_resolution(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Sides reduced to ``share`` (at 224 pixels) and enlarged again as blocks. Draws nothing."""
    share **= math.sqrt(_scale(image))
    small = [max(1, round(share * side)) for side in image.size]
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)


@dataclass(frozen=True)
class ImageKind:
    """A corruption, what its parameter is, and its values at severities 1 to 5 (at 224 pixels).

    Without ``draws`` it uses no random numbers: one image has one result, whatever the seed.
    """

    function: Callable[[Image.Image, float, np.random.Generator], Image.Image]
    parameter: str
    values: tuple[float, float, float, float, float]
    draws: bool = True


IMAGE_KINDS: dict[str, ImageKind] = {
    "gaussian_noise": ImageKind(
        gaussian_noise, "standard deviation, intensities 0 to 1", (0.06, 0.1, 0.16, 0.24, 0.34)
    ),
    "shot_noise": ImageKind(shot_noise, "photons at full intensity", (160, 70, 30, 13, 6)),
    "blur": ImageKind(
        blur,
        "standard deviation / short side",
        (0.007, 0.011, 0.016, 0.022, 0.029),
        draws=False,
    ),
    "motion_blur": ImageKind(
        motion_blur, "path length / short side", (0.03, 0.05, 0.08, 0.11, 0.15)
    ),
    "jpeg": ImageKind(jpeg, "quantisation step / standard step", (2, 3, 4, 5.5, 7.5), draws=False),
    "brightness": ImageKind(brightness, "factor, or one over it", (1.15, 1.3, 1.5, 1.75, 2.1)),
    "contrast": ImageKind(contrast, "factor", (0.75, 0.55, 0.4, 0.28, 0.18), draws=False),
    "occlusion": ImageKind(occlusion, "area covered / area", (0.05, 0.1, 0.18, 0.28, 0.4)),
    "low_resolution": ImageKind(
        low_resolution, "reduced side / side", (0.6, 0.47, 0.37, 0.29, 0.22), draws=False
    ),
}


def corrupt(image: Image.Image, kind: str, severity: int, rng: np.random.Generator) -> Image.Image:
    """Return a corrupted copy of an image.

    Args:
        image: RGB, of any size; not changed.
        kind: a key of `IMAGE_KINDS`.
        severity: 1 to 5, or 0 for a plain copy.
        rng: e.g. ``rng_for(seed, "image", relative_path, kind)``.

    Returns:
        RGB image of the same size.

    Raises:
        UsageError: unknown kind or severity.
        ValueError: an image that is not RGB.
    """
    known = get_kind(IMAGE_KINDS, kind, "image noise")
    severity = check_severity(severity)
    if getattr(image, "mode", None) != "RGB":
        found = getattr(image, "mode", type(image).__name__)
        raise ValueError(f"Image noise: wanted an RGB image, got {found}: .convert('RGB') first.")
    if severity == 0:
        return image.copy()
    return known.function(image, known.values[severity - 1], rng)


def _path_weights(dx: float, dy: float) -> dict[tuple[int, int], float]:
    """Whole-pixel offsets and weights (sum 1) of a straight path centred on the origin.

    Points at most half a pixel apart, each shared among its four neighbours (bilinear).
    """
    points = 2 * math.ceil(math.hypot(dx, dy)) + 1
    weights: dict[tuple[int, int], float] = {}
    for t in np.linspace(-0.5, 0.5, points):
        x, y = t * dx, t * dy
        left, top = math.floor(x), math.floor(y)
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            share = (1 - abs(x - left - i)) * (1 - abs(y - top - j))
            if share > 0:
                offset = (left + i, top + j)
                weights[offset] = weights.get(offset, 0.0) + share / points
    return weights


def _scale(image: Image.Image) -> float:
    """The short side relative to the 224 pixels that parameters are stated for."""
    return min(image.size) / 224


def _pixels(image: Image.Image) -> np.ndarray:
    """(H, W, 3) float32 from 0 to 1."""
    return np.asarray(image, dtype=np.float32) / 255


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
