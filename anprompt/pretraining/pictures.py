"""Pictures of coloured, patterned shapes to pretrain on, and their captions.

Clean edges, saturated colours, flat, graded or noisy backgrounds. The Shapes data set is drawn in
another style by other code (``datasets/shapes.py``) and never seen in pretraining.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

PICTURE_SIZE = 56  # pixels of the square
COLOURS = {
    "red": (215, 30, 35),
    "orange": (245, 135, 20),
    "yellow": (245, 220, 30),
    "green": (35, 155, 55),
    "blue": (35, 75, 205),
    "purple": (125, 45, 165),
    "pink": (245, 130, 180),
    "brown": (125, 75, 35),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "gray": (130, 130, 130),
    "turquoise": (50, 195, 195),
}
SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "diamond",
    "ring",
    "crescent",
    "hexagon",
    "arrow",
    "oval",
    "rectangle",
    "drop",
)
PATTERNS = {
    "plain": ("plain", "", "solid", ""),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered",),
}

SHAPE_TEMPLATES = (
    "{}",
    "a {}",
    "a {}.",
    "a picture of a {}.",
    "a picture of a {}",
    "an image of a {}.",
    "a photo of a {}.",
    "a drawing of a {}.",
    "an illustration of one {}.",
    "this is a {}.",
    "there is a {} in the picture.",
    "the shape is a {}.",
    "a small {}.",
    "a large {} on a background.",
    "graphic of the {}",
)


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape in the unit square's coordinates, -1 .. 1."""
    if shape in ("circle", "oval", "ring", "crescent"):
        squash = 0.6 if shape == "oval" else 1.0
        angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        return [(math.cos(a), squash * math.sin(a)) for a in angles]
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "rectangle":
        return [(-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)]
    if shape == "triangle":
        return [(0, -1), (0.95, 0.8), (-0.95, 0.8)]
    if shape == "diamond":
        return [(0, -1), (0.7, 0), (0, 1), (-0.7, 0)]
    if shape == "hexagon":
        return [(math.cos(i * math.pi / 3), math.sin(i * math.pi / 3)) for i in range(6)]
    if shape == "star":
        radii = [1.0, 0.42] * 5
        return [
            (r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5))
            for i, r in enumerate(radii)
        ]
    if shape == "cross":
        a = 0.33
        return [
            (-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a),
            (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a),
        ]  # fmt: skip
    if shape == "arrow":
        return [(-1, -0.3), (0.1, -0.3), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3)]
    if shape == "heart":
        t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        x = np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
        return list(zip(x.tolist(), y.tolist(), strict=True))
    if shape == "drop":
        t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        x = 0.8 * np.sin(t) * np.sin(t / 2)
        return list(zip(x.tolist(), (-np.cos(t)).tolist(), strict=True))
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


def _place(points, centre, radius: float, angle: float, stretch: float):
    cos, sin = math.cos(angle), math.sin(angle)
    placed = []
    for x, y in points:
        x, y = x * radius * stretch, y * radius / stretch
        placed.append((centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos))
    return placed


def _shape_mask(shape: str, size: int, rng: np.random.Generator) -> Image.Image:
    """Anti-aliased mask of the shape, randomly placed, as an L image of ``size`` pixels."""
    scale = 2
    full = size * scale
    radius = full * rng.uniform(0.22, 0.46)
    room = max(0.0, full / 2 - 0.9 * radius)
    centre = (full / 2 + rng.uniform(-room, room), full / 2 + rng.uniform(-room, room))
    if shape == "arrow":
        angle = rng.uniform(0, 2 * math.pi)
    elif shape in ("square", "diamond"):  # turned far, one would be the other
        angle = rng.uniform(-0.2, 0.2)
    else:
        angle = rng.uniform(-0.45, 0.45)
    stretch = (
        rng.uniform(0.93, 1.07)
        if shape in ("circle", "square", "ring")
        else rng.uniform(0.85, 1.18)
    )
    mask = Image.new("L", (full, full), 0)
    draw = ImageDraw.Draw(mask)
    outline = _outline(shape)
    draw.polygon(_place(outline, centre, radius, angle, stretch), fill=255)
    if shape == "ring":
        hole = radius * rng.uniform(0.45, 0.65)
        draw.polygon(_place(outline, centre, hole, angle, stretch), fill=0)
    if shape == "crescent":
        shift = radius * rng.uniform(0.4, 0.6)
        turn = rng.uniform(0, 2 * math.pi)
        bite = (centre[0] + shift * math.cos(turn), centre[1] + shift * math.sin(turn))
        draw.polygon(_place(outline, bite, 0.85 * radius, angle, stretch), fill=0)
    return mask.resize((size, size), Image.Resampling.BOX)


def _tone(colour: str, rng: np.random.Generator, spread: float = 22) -> np.ndarray:
    tone = np.array(COLOURS[colour], dtype=np.float32)
    brightness = rng.uniform(0.8, 1.1) if colour not in ("black", "white") else 1.0
    return np.clip(tone * brightness + rng.uniform(-spread, spread, 3), 0, 255)


def _pattern(pattern: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Where the second colour goes: (size, size) in 0 .. 1."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    if pattern == "plain":
        return np.zeros((size, size), dtype=np.float32)
    period = rng.uniform(5, 11)
    angle = rng.uniform(0, math.pi)
    u = x * math.cos(angle) + y * math.sin(angle) + rng.uniform(0, period)
    v = -x * math.sin(angle) + y * math.cos(angle) + rng.uniform(0, period)
    if pattern == "striped":
        wave = np.sin(2 * math.pi * u / period)
    elif pattern == "checkered":
        wave = np.sin(math.pi * u / period * 1.3) * np.sin(math.pi * v / period * 1.3) * 3
    elif pattern == "dotted":
        pu, pv = u % period - period / 2, v % period - period / 2
        wave = (period * rng.uniform(0.24, 0.34) - np.hypot(pu, pv)) * 0.8
    else:
        raise ValueError(f"unknown pattern {pattern!r}; known: {', '.join(PATTERNS)}")
    return np.clip(0.5 + 1.6 * wave, 0, 1)


def _background(colour: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) background whose mean colour is clearly not the shape's."""
    own = np.array(COLOURS[colour], dtype=np.float32)
    for _ in range(20):
        if rng.random() < 0.5:
            base = _tone(list(COLOURS)[rng.integers(len(COLOURS))], rng)
        else:
            base = rng.uniform(0, 255, 3).astype(np.float32)
        if np.abs(base - own).sum() > 150:
            break
    canvas = np.broadcast_to(base, (size, size, 3)).astype(np.float32)
    kind = rng.integers(5)
    if kind == 1:  # gradient
        other = np.clip(base + rng.uniform(-90, 90, 3), 0, 255)
        y, x = np.mgrid[:size, :size] / size
        angle = rng.uniform(0, 2 * math.pi)
        ramp = np.clip(0.5 + (x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle), 0, 1)
        canvas = canvas + ramp[..., None] * (other - base)
    elif kind == 2:  # smooth noise
        cells = int(rng.integers(3, 12))
        coarse = rng.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        canvas = canvas + rng.uniform(0.15, 0.5) * (np.asarray(smooth, dtype=np.float32) - 128)
    elif kind == 3:  # grain
        canvas = canvas + rng.normal(0, rng.uniform(8, 35), (size, size, 1))  # type: ignore[assignment]
    elif kind == 4:  # a few faint blobs and bars
        layer = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
        draw = ImageDraw.Draw(layer)
        for _ in range(int(rng.integers(2, 7))):
            x0, y0 = rng.uniform(-10, size, 2)
            w, h = rng.uniform(4, 30, 2)
            shade = tuple(int(c) for c in np.clip(base + rng.uniform(-45, 45, 3), 0, 255))
            box = (x0, y0, x0 + w, y0 + h)
            (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=shade)
        canvas = np.asarray(layer, dtype=np.float32)
    return canvas


def draw_picture(
    colour: str, pattern: str, shape: str, rng: np.random.Generator, size: int = PICTURE_SIZE
) -> np.ndarray:
    """One picture of e.g. ("red", "striped", "circle"): (size, size, 3) uint8."""
    canvas = _background(colour, size, rng)
    mask_image = _shape_mask(shape, size, rng)
    mask = np.asarray(mask_image, dtype=np.float32)[..., None] / 255
    first = _tone(colour, rng)
    if rng.random() < 0.75:  # second colour: light, dark or a far tone of the first
        light = first.mean() < 128 if rng.random() < 0.8 else rng.random() < 0.5
        second = first * 0.25 + (190 if light else 0)
    else:
        second = _tone(list(COLOURS)[rng.integers(len(COLOURS))], rng)
        if np.abs(second - first).sum() < 150:
            second = 255 - first
    where = _pattern(pattern, size, rng)[..., None]
    ink = first + where * (np.clip(second, 0, 255) - first)
    style = rng.integers(4)
    if style == 1:  # shaded towards one side
        y, x = np.mgrid[:size, :size] / size
        ink = (
            ink
            * (1 + rng.uniform(-0.3, 0.3) * (x - 0.5) + rng.uniform(-0.3, 0.3) * (y - 0.5))[
                ..., None
            ]
        )
    if style == 2:  # thin outline
        edge = (
            np.asarray(mask_image.filter(ImageFilter.FIND_EDGES), dtype=np.float32)[..., None] / 255
        )
        canvas = canvas + mask * (ink - canvas)
        line = 0.0 if rng.random() < 0.7 else 255.0
        canvas = canvas + edge * (line - canvas)
    else:
        canvas = canvas + mask * (ink - canvas)
    if rng.random() < 0.3:
        canvas = canvas + rng.normal(0, rng.uniform(2, 14), canvas.shape)
    picture = np.clip(canvas, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.0)))
        picture = np.asarray(blurred)
    return picture


def shape_captions(colour: str, pattern: str, shape: str) -> list[str]:
    """Captions of a drawn picture, in several word orders."""
    captions = []
    for word in PATTERNS[pattern]:
        noun = " ".join(w for w in (colour, word, shape) if w)
        captions += [template.format(noun) for template in SHAPE_TEMPLATES]
    if pattern == "plain":
        captions += [f"a {shape} that is {colour}.", f"a {shape} in {colour}."]
    else:
        captions += [
            f"a {pattern} {shape} in {colour}.",
            f"a {pattern} {colour} {shape}.",
            f"a {colour} {shape} that is {pattern}.",
        ]
    return captions
