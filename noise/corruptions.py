"""The operations behind ImageNet-C, on NumPy and SciPy; `noise.imagenet_c` has their parameters.

Each takes a square RGB image, its parameters and a generator, and returns (n, n, 3) values from 0
to 255, not yet clipped or rounded. What is done, in which order and in which precision follows the
released code [A: hendrycks/robustness, 8190fe3], because its results are cut to whole numbers:
given the same random draws, images agree to within one level but for a few pixels. The code is this
project's. Where the released code calls ImageMagick (motion blur) or OpenCV (spatter), the same
operation is written out here.
"""

import functools
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray
Operation = Callable[[Image.Image, Any, np.random.Generator], Array]

MUD = (63, 42, 20)
WATER = (175, 238, 238)
LUMINANCE = (0.299, 0.587, 0.114)


# Noise -----------------------------------------------------------------------------------------


def gaussian_noise(image: Image.Image, sigma: float, rng: np.random.Generator) -> Array:
    """Add Gaussian noise; ``sigma`` of intensities from 0 to 1."""
    x = _unit(image)
    return _scaled(x + rng.normal(size=x.shape, scale=sigma))


def shot_noise(image: Image.Image, photons: float, rng: np.random.Generator) -> Array:
    """Draw Poisson counts with mean ``photons`` at full intensity."""
    return _scaled(rng.poisson(_unit(image) * photons) / photons)


def impulse_noise(image: Image.Image, share: float, rng: np.random.Generator) -> Array:
    """Set a share of the values to 0 or 1, equally often."""
    x = _unit(image)
    hit, bright = rng.random(x.shape) <= share, rng.random(x.shape) <= 0.5
    x[hit & bright], x[hit & ~bright] = 1, 0
    return _scaled(x)


def speckle_noise(image: Image.Image, sigma: float, rng: np.random.Generator) -> Array:
    """Add Gaussian noise in proportion to the intensity."""
    x = _unit(image)
    return _scaled(x + x * rng.normal(size=x.shape, scale=sigma))


# Blur ------------------------------------------------------------------------------------------


def gaussian_blur(image: Image.Image, sigma: float, rng: np.random.Generator) -> Array:
    """Blur with a Gaussian of ``sigma`` pixels. Draws nothing."""
    return _scaled(_gaussian(_unit(image), sigma))


def defocus_blur(
    image: Image.Image, parameters: tuple[float, float], rng: np.random.Generator
) -> Array:
    """Blur with a disc: its radius, and the sigma that softens its rim. Draws nothing."""
    from scipy.ndimage import correlate, correlate1d

    radius, sigma = parameters
    reach, taps = (8, 3) if radius <= 8 else (math.ceil(radius), 5)
    line = np.arange(-reach, reach + 1)
    disc = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float32)
    disc /= disc.sum()
    rim = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        disc = correlate1d(disc, rim / rim.sum(), axis=axis, mode="mirror")
    return _scaled(correlate(_unit(image), disc[..., None].astype(np.float64), mode="mirror"))


def glass_blur(
    image: Image.Image, parameters: tuple[float, int, int], rng: np.random.Generator
) -> Array:
    """Blur, give pixels the colour of near ones, blur: sigma, largest distance, repetitions.

    The released code means to swap two pixels; what it does is to copy one to the other.
    """
    sigma, reach, repetitions = parameters
    x = (_gaussian(_unit(image), sigma) * 255).astype(np.uint8)
    n = len(x)
    line = np.arange(n - reach, reach, -1)  # rows and columns, in the order of the visits
    for _ in range(repetitions):
        moves = rng.integers(-reach, reach, size=(len(line), len(line), 2))  # (dx, dy)
        target = line[:, None] * n + line
        source = target + moves[..., 1] * n + moves[..., 0]
        pointer = np.arange(n * n)
        pointer[target] = source
        # A pixel that was visited before holds a copy by now: follow it to where that came from.
        visit = np.full(n * n, target.size)
        visit[target] = np.arange(target.size).reshape(target.shape)
        follows = visit[pointer] < visit
        while follows.any():
            pointer, follows = (
                np.where(follows, pointer[pointer], pointer),
                follows & follows[pointer],
            )
        x = x.reshape(n * n, 3)[pointer].reshape(n, n, 3)
    return _scaled(_gaussian(x / 255.0, sigma))


def motion_blur(
    image: Image.Image, parameters: tuple[int, float], rng: np.random.Generator
) -> Array:
    """Blur along a line to one side: radius, sigma; in a direction within 45 degrees of level."""
    return _motion(np.asarray(image), *parameters, rng.uniform(-45, 45))


def zoom_blur(
    image: Image.Image, parameters: tuple[float, float], rng: np.random.Generator
) -> Array:
    """Average with enlarged copies: factors from 1 up to the first number, in steps of the second.

    Draws nothing.
    """
    x = _unit(image).astype(np.float32)
    factors = np.arange(1, *parameters)
    total = np.zeros_like(x)
    for factor in factors:
        total += _zoom(x, factor)
    return _scaled((x + total) / (len(factors) + 1))


# Weather ---------------------------------------------------------------------------------------


def snow(
    image: Image.Image,
    parameters: tuple[float, float, float, float, int, float, float],
    rng: np.random.Generator,
) -> Array:
    """Whiten and let flakes fall: mean, sigma, zoom, threshold, radius, sigma of motion, mix."""
    loc, scale, zoom, threshold, radius, sigma, mix = parameters
    x = np.asarray(image, dtype=np.float32) / 255.0
    flakes = _zoom(rng.normal(size=x.shape[:2], loc=loc, scale=scale)[..., None], zoom)[..., 0]
    flakes[flakes < threshold] = 0
    grey = (np.clip(flakes, 0, 1) * 255).astype(np.uint8)
    layer = _motion(grey[..., None], radius, sigma, rng.uniform(-135, -45)) / 255.0
    light = (x @ np.array(LUMINANCE, dtype=np.float32))[..., None]
    x = mix * x + (1 - mix) * np.maximum(x, light * 1.5 + 0.5)
    return _scaled(x + layer + np.rot90(layer, k=2))


def frost(
    image: Image.Image,
    parameters: tuple[float, float],
    rng: np.random.Generator,
    pictures: Sequence[Image.Image],
    shrink: float,
) -> Array:
    """Lay a piece of a picture of frost over the image: weights of the image and of the frost.

    Args:
        pictures: of frost; the released code draws from the first five of its six.
        shrink: they are made smaller by this factor first.
    """
    x, n = np.asarray(image), image.width
    chosen = pictures[int(rng.integers(5))]
    shrink = max(shrink, (n + 1) / min(chosen.size))  # larger images than the released ones
    layer = np.asarray(chosen.convert("RGB"))
    if shrink != 1:
        layer = _resample(layer, shrink)
    top, left = rng.integers(0, layer.shape[0] - n), rng.integers(0, layer.shape[1] - n)
    return parameters[0] * x + parameters[1] * layer[top : top + n, left : left + n]


def fog(image: Image.Image, parameters: tuple[float, float], rng: np.random.Generator) -> Array:
    """Add a cloud and dim what is beyond full intensity: weight, decay of its details."""
    weight, decay = parameters
    x = _unit(image)
    largest, n = x.max(), len(x)
    x += weight * _plasma(2 ** math.ceil(math.log2(n)), decay, rng)[:n, :n, None]
    return _scaled(x * largest / (largest + weight))


def brightness(image: Image.Image, change: float, rng: np.random.Generator) -> Array:
    """Add to the value of hue, saturation and value. Draws nothing."""
    hue, saturation, value = _to_hsv(_unit(image))
    return _scaled(_from_hsv(hue, saturation, np.clip(value + change, 0, 1)))


def spatter(
    image: Image.Image,
    parameters: tuple[float, float, float, float, float, int],
    rng: np.random.Generator,
) -> Array:
    """Spatter with water or mud: mean, sigma, blur, threshold, strength, 1 for mud.

    Strength is of the water, or of the blur of the mud's rim.
    """
    loc, scale, sigma, threshold, strength, is_mud = parameters
    x = np.asarray(image, dtype=np.float32) / 255.0
    liquid = _gaussian(rng.normal(size=x.shape[:2], loc=loc, scale=scale), sigma)
    liquid[liquid < threshold] = 0
    if is_mud:
        cover = _gaussian((liquid > threshold).astype(np.float32), strength)[..., None]
        cover[cover < 0.8] = 0
        return _scaled(x * (1 - cover) + _colour(MUD) * cover)
    drops = (liquid * 255).astype(np.uint8)
    cover = drops * _rims(drops)
    cover /= cover.max() or 1
    return _scaled(x + strength * cover[..., None] * _colour(WATER))


# Digital ---------------------------------------------------------------------------------------


def contrast(image: Image.Image, factor: float, rng: np.random.Generator) -> Array:
    """Multiply distances from each channel's mean. Draws nothing."""
    x = _unit(image)
    means = x.mean(axis=(0, 1), keepdims=True)
    return _scaled((x - means) * factor + means)


def saturate(
    image: Image.Image, parameters: tuple[float, float], rng: np.random.Generator
) -> Array:
    """Multiply the saturation by the first number and add the second. Draws nothing."""
    hue, saturation, value = _to_hsv(_unit(image))
    factor, change = parameters
    return _scaled(_from_hsv(hue, np.clip(saturation * factor + change, 0, 1), value))


def elastic_transform(
    image: Image.Image, parameters: tuple[float, float, float], rng: np.random.Generator
) -> Array:
    """Shift, turn and stretch, then move pixels: alpha, sigma, affine; all in pixels."""
    from scipy.ndimage import map_coordinates

    alpha, sigma, affine = parameters
    x = np.asarray(image, dtype=np.float32) / 255.0
    n = len(x)
    middle, arm = n // 2, n // 3
    corners = np.array([(1, 1), (1, -1), (-1, -1)]) * arm + middle
    moved = corners + rng.uniform(-affine, affine, size=(3, 2)).astype(np.float32)
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)  # moved -> corners
    column, row = np.meshgrid(np.arange(n), np.arange(n))
    # As OpenCV reckons: places are whole multiples of 1/32 pixel.
    fixed = np.round(column[..., None] * back[0] * 1024)
    fixed += np.round((row[..., None] * back[1] + back[2]) * 1024)
    there = np.floor((fixed + 16) / 32) / 32  # (n, n, 2), column and row
    x = _sample(x, there[..., 1], there[..., 0], "mirror")
    shifts = [
        _gaussian(rng.uniform(-1, 1, size=(n, n)), sigma, mode="reflect", truncate=3) * alpha
        for _ in range(2)
    ]
    right, down = (shift.astype(np.float32) for shift in shifts)
    places = np.stack([row + down, column + right])
    return _scaled(
        np.stack(
            [map_coordinates(x[..., c], places, order=1, mode="reflect") for c in range(3)], axis=-1
        )
    )


def pixelate(image: Image.Image, share: float, rng: np.random.Generator) -> Array:
    """Reduce the sides to ``share`` and enlarge them again as blocks. Draws nothing."""
    small = int(image.width * share)
    resized = image.resize((small, small), Image.Resampling.BOX)
    return np.asarray(resized.resize(image.size, Image.Resampling.BOX))


def jpeg_compression(image: Image.Image, quality: int, rng: np.random.Generator) -> Array:
    """Compress as JPEG. Draws nothing."""
    return np.asarray(as_jpeg(image, quality))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Return an image as it is after saving it as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


# What they are made of -------------------------------------------------------------------------


def _unit(image: Image.Image) -> Array:
    """Return (n, n, 3) float64 from 0 to 1."""
    return np.asarray(image) / 255.0


def _colour(values: tuple[int, int, int]) -> Array:
    return np.array(values, dtype=np.float32) / np.float32(255)


def _scaled(x: Array) -> Array:
    return np.clip(x, 0, 1) * 255


def _gaussian(x: Array, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> Array:
    """Blur the first two axes."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, sigma, mode=mode, truncate=truncate, axes=(0, 1))


def _zoom(x: Array, factor: float) -> Array:
    """Enlarge the middle of (n, n, C) to the size of the whole."""
    from scipy.ndimage import zoom

    n = len(x)
    inner = math.ceil(n / factor)
    first = (n - inner) // 2
    larger = zoom(x[first : first + inner, first : first + inner], (factor, factor, 1), order=1)
    trim = (len(larger) - n) // 2
    return larger[trim : trim + n, trim : trim + n]


def _motion(x: Array, radius: int, sigma: float, degrees: float) -> Array:
    """Blur uint8 (n, n, C) along a line as ImageMagick does; edges are held.

    Half of a Gaussian, 2 radius + 1 points long, starts at the pixel; the points lie on whole
    pixels.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle = math.radians(degrees)
    offsets = [np.ceil(steps * f(angle) - 0.5).astype(int) for f in (math.sin, math.cos)]
    margin, n = len(steps), len(x)
    padded = np.pad(x.astype(np.float64), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    total = np.zeros(x.shape)
    for weight, down, right in zip(weights, *offsets, strict=True):
        top, left = margin + down, margin + right
        total += weight * padded[top : top + n, left : left + n]
    return np.floor(total)


def _plasma(n: int, decay: float, rng: np.random.Generator) -> Array:
    """Draw a cloud (n, n), n a power of two, from 0 to 1, by the diamond-square algorithm."""
    cloud = np.zeros((n, n))
    step, amplitude = n, 100.0

    def between(total: Array) -> Array:
        return total / 4 + amplitude * rng.uniform(-amplitude, amplitude, total.shape)

    while step >= 2:
        half = step // 2
        corners, middles = cloud[::step, ::step], cloud[half::step, half::step]  # views
        pairs = corners + np.roll(corners, -1, axis=0)
        middles[:] = between(pairs + np.roll(pairs, -1, axis=1))
        beside = middles + np.roll(middles, 1, axis=0)
        cloud[::step, half::step] = between(beside + (corners + np.roll(corners, -1, axis=1)))
        beside = middles + np.roll(middles, 1, axis=1)
        cloud[half::step, ::step] = between(beside + (corners + np.roll(corners, -1, axis=0)))
        step, amplitude = half, amplitude / decay
    cloud -= cloud.min()
    return cloud / cloud.max()


def _to_hsv(x: Array) -> tuple[Array, Array, Array]:
    """Return hue, saturation and value (n, n), each from 0 to 1."""
    red, green, blue = np.moveaxis(x, -1, 0)
    value = x.max(axis=-1)
    spread = value - x.min(axis=-1)
    safe = np.where(spread == 0, 1, spread)
    hue = np.select(
        [value == blue, value == green],
        [4 + (red - green) / safe, 2 + (blue - red) / safe],
        (green - blue) / safe,
    )
    hue = np.where(spread == 0, 0, (hue / 6) % 1)
    return hue, np.where(spread == 0, 0, spread / np.where(value == 0, 1, value)), value


def _from_hsv(hue: Array, saturation: Array, value: Array) -> Array:
    """Return (n, n, 3) red, green and blue."""
    sector = np.floor(hue * 6)
    rest = hue * 6 - sector
    p = value * (1 - saturation)
    q = value * (1 - rest * saturation)
    t = value * (1 - (1 - rest) * saturation)
    sixths = [(value, t, p), (q, value, p), (p, value, t), (p, q, value), (t, p, value)]
    which = (sector % 6).astype(int)
    channels = zip(*sixths, (value, p, q), strict=True)
    return np.stack([np.choose(which, list(channel)) for channel in channels], axis=-1)


def _sample(x: Array, row: Array, column: Array, mode: str) -> Array:
    """Read (n, n, C) at fractional places, bilinearly."""
    from scipy.ndimage import map_coordinates

    places = np.stack([row, column])
    return np.stack(
        [map_coordinates(x[..., c], places, order=1, mode=mode) for c in range(x.shape[-1])],
        axis=-1,
    )


def _resample(x: Array, factor: float) -> Array:
    """Resize uint8 (H, W, 3) bilinearly without smoothing first."""
    sides = [round(side * factor) for side in x.shape[:2]]
    row, column = ((np.arange(side) + 0.5) / factor - 0.5 for side in sides)
    places = np.meshgrid(row, column, indexing="ij")
    return np.round(_sample(x.astype(np.float64), *places, "nearest"))


def _rims(drops: Array) -> Array:
    """Return how bright drops (n, n), uint8, are at their rims: float32, 0 to 255."""
    from scipy.ndimage import correlate, uniform_filter

    distance = np.minimum(_distance(_edges(drops)), 20).astype(np.float32)
    rims = uniform_filter(distance, 3, mode="mirror").astype(np.uint8)
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    raised = correlate(_equalised(rims).astype(np.int64), relief, mode="mirror")
    smooth = uniform_filter(np.clip(raised, 0, 255).astype(np.float64), 3, mode="mirror")
    return np.round(smooth).astype(np.float32)


def _edges(x: Array, low: int = 50, high: int = 150) -> Array:
    """Find edges of a grey uint8 image by Canny's method: boolean (n, n)."""
    from scipy.ndimage import label, sobel

    grey = x.astype(np.int64)
    right, down = (sobel(grey, axis=axis, mode="nearest") for axis in (1, 0))
    size = np.abs(right) + np.abs(down)
    framed = np.pad(size, 1)
    n = len(x)

    def at(row: int, column: int) -> Array:
        return framed[1 + row : 1 + row + n, 1 + column : 1 + column + n]

    steep = np.abs(down) * 2**15
    flat = np.abs(right) * round((math.sqrt(2) - 1) * 2**15)  # tan 22.5
    level = steep < flat
    upright = steep > flat + np.abs(right) * 2**16  # tan 67.5 is two more
    falling = (right ^ down) < 0
    peak = np.select(
        [level, upright, falling],
        [
            (size > at(0, -1)) & (size >= at(0, 1)),
            (size > at(-1, 0)) & (size >= at(1, 0)),
            (size > at(-1, 1)) & (size > at(1, -1)),
        ],
        (size > at(-1, -1)) & (size > at(1, 1)),
    )
    weak = peak & (size > low)
    pieces, _ = label(weak, structure=np.ones((3, 3)))
    strong = np.unique(pieces[weak & (size > high)])
    return np.isin(pieces, strong[strong > 0])


def _distance(edges: Array) -> Array:
    """Return distances to the nearest edge along moves of a 5 x 5 mask, as far as 21."""
    moves = {(0, 1): 1.0, (1, 1): 1.4, (1, 2): 2.1969, (2, 1): 2.1969, (1, 0): 1.0}
    signed = {
        (sign * row, other * column): cost
        for (row, column), cost in moves.items()
        for sign in (1, -1)
        for other in (1, -1)
    }
    n = len(edges)
    distance = np.where(edges, 0.0, np.inf)
    for _ in range(21):
        framed = np.pad(distance, 2, constant_values=np.inf)
        shifted = [
            framed[2 + row : 2 + row + n, 2 + column : 2 + column + n] + cost
            for (row, column), cost in signed.items()
        ]
        distance = functools.reduce(np.minimum, shifted, distance)
    return distance


def _equalised(x: Array) -> Array:
    """Spread the values of a uint8 image evenly from 0 to 255."""
    counts = np.bincount(x.ravel(), minlength=256)
    lowest = counts[x.min()]
    if lowest == x.size:
        return x
    below = np.cumsum(counts) - lowest
    table = np.round(np.maximum(below, 0) * (255 / (x.size - lowest)))
    return table.astype(np.uint8)[x]
