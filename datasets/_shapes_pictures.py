"""The pictures of Shapes: crayon drawings on paper.

All randomness comes from numpy's frozen ``RandomState`` seeded by split, class and number, so the
same pictures are drawn on every machine, in any order.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from datasets.splits import SPLITS

SIZE = 64  # pixels of the square pictures

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "hexagon", "ring")
PATTERNS = ("", "striped", "dotted")  # "" is a plain fill and is not spoken
# Crayon tones, two to three per colour word.
COLOURS = {
    "red": ((196, 48, 52), (170, 30, 48), (214, 70, 60)),
    "orange": ((224, 128, 48), (208, 108, 36), (238, 150, 80)),
    "yellow": ((226, 202, 70), (240, 216, 110), (208, 184, 40)),
    "green": ((72, 138, 84), (52, 110, 62), (110, 168, 90)),
    "blue": ((62, 92, 170), (40, 66, 140), (84, 122, 204)),
    "purple": ((120, 72, 148), (96, 54, 120), (146, 98, 176)),
    "pink": ((226, 142, 172), (212, 116, 156), (240, 166, 190)),
    "brown": ((128, 88, 58), (106, 70, 44), (148, 106, 76)),
}
PAPERS = (
    (238, 230, 210),
    (222, 218, 208),
    (206, 186, 156),
    (208, 220, 226),
    (244, 242, 236),
    (196, 204, 186),
    (72, 82, 84),
)


def _class_list() -> list[tuple[str, str, str]]:
    """The (colour, pattern, shape) of every class, in label order.

    Each shape and pattern comes in two colours, one of them shared with the next pattern; the order
    is a fixed shuffle.
    """
    colours = list(COLOURS)
    combinations = [
        (colours[(s + 2 * (p + half)) % len(colours)], pattern, shape)
        for s, shape in enumerate(SHAPES)
        for p, pattern in enumerate(PATTERNS)
        for half in range(2)
    ]
    order = np.random.RandomState(23).permutation(len(combinations))  # noqa: NPY002
    return [combinations[i] for i in order]


CLASSES = _class_list()
CLASSNAMES = [" ".join(word for word in combination if word) for combination in CLASSES]


def _contour(shape: str) -> np.ndarray:
    """Points (96, 2) along the shape's edge, about -1 .. 1, y downwards."""
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    if shape in ("circle", "ring"):
        return np.stack([np.cos(t), np.sin(t)], axis=1)
    if shape == "heart":
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return np.stack([x, -y - 2.5], axis=1) / 16
    if shape == "cross":
        arm = 0.34
        quarter = [(arm, -1), (arm, -arm), (1, -arm)]
        corners = [
            (x * math.cos(a) - y * math.sin(a), x * math.sin(a) + y * math.cos(a))
            for a in (0, np.pi / 2, np.pi, 3 * np.pi / 2)
            for x, y in quarter
        ]
    else:
        count, inner = {
            "square": (4, None),
            "triangle": (3, None),
            "hexagon": (6, None),
            "star": (5, 0.42),
        }[shape]
        turn = np.pi / 4 if shape == "square" else 0.0
        corners = []
        for i in range(count):
            angle = turn + 2 * np.pi * i / count
            corners.append((math.sin(angle), -math.cos(angle)))
            if inner:
                angle += np.pi / count
                corners.append((inner * math.sin(angle), -inner * math.cos(angle)))
    points = np.array(corners)
    edges = np.roll(points, -1, axis=0) - points
    per_edge = 96 // len(points)
    steps = np.linspace(0, 1, per_edge, endpoint=False)[None, :, None]
    return (points[:, None] + steps * edges[:, None]).reshape(-1, 2)


def _wobble(points: np.ndarray, amount: float, rng) -> np.ndarray:
    """Points (N, 2) moved by a few slow waves around the contour, as an unsteady hand does."""
    t = np.linspace(0, 2 * np.pi, len(points), endpoint=False)
    moved = points.copy()
    for wave in (2, 3, 5, 9):
        size = rng.normal(0, amount / wave**0.5, (2, 2))
        moved += np.sin(wave * t)[:, None] * size[0] + np.cos(wave * t)[:, None] * size[1]
    return moved


def smooth_noise(size: int, cells_x: int, cells_y: int, rng) -> np.ndarray:
    """(size, size) noise of the given coarseness, about -1 .. 1."""
    coarse = rng.randint(0, 256, (cells_y, cells_x)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32) / 127.5 - 1


def _paper(full: int, rng) -> np.ndarray:
    """Sheet with fibres, sometimes ruled or squared: (full, full, 3)."""
    sheet = np.array(PAPERS[rng.randint(len(PAPERS))]) + rng.uniform(-12, 12, 3)
    canvas = np.full((full, full, 3), sheet, dtype=np.float32)
    fibres = 9 * smooth_noise(full, 6, 6, rng) + 8 * smooth_noise(full, full // 2, full // 8, rng)
    canvas += (fibres + rng.normal(0, 6, (full, full)).astype(np.float32))[..., None]
    ruling = rng.randint(4)
    if ruling:
        step, start = rng.randint(14, 26), rng.randint(14)
        inks = ((110, 140, 190), (180, 120, 120), (130, 130, 130))
        ink = np.array(inks[rng.randint(3)], dtype=np.float32)
        if ruling != 2:
            canvas[start::step] += 0.45 * (ink - canvas[start::step])
        if ruling != 1:
            canvas[:, start::step] += 0.45 * (ink - canvas[:, start::step])
    return canvas


def _stray_strokes(draw: ImageDraw.ImageDraw, full: int, rng) -> None:
    """Pencil lines, arcs and crosses that belong to nothing."""
    for _ in range(rng.randint(2, 8)):
        tone = rng.randint(60, 200)
        ink = tuple(int(v) for v in np.clip(tone + rng.randint(-45, 46, 3), 0, 255))
        x, y = (int(v) for v in rng.randint(0, full, 2))
        length = int(rng.randint(full // 10, full // 2))
        width = int(rng.randint(1, 4))
        if rng.randint(2):
            angle = rng.uniform(0, 2 * math.pi)
            end = (x + length * math.cos(angle), y + length * math.sin(angle))
            draw.line([(x, y), end], fill=ink, width=width)
        else:
            begin = int(rng.randint(360))
            box = (x - length // 2, y - length // 2, x + length // 2, y + length // 2)
            draw.arc(box, begin, begin + int(rng.randint(40, 200)), fill=ink, width=width)


def _pattern_marks(pattern: str, full: int, rng) -> np.ndarray:
    """Where the pattern's second crayon goes, (full, full) in 0 .. 1, drawn by hand."""
    marks = Image.new("L", (full, full), 0)
    draw = ImageDraw.Draw(marks)
    step = rng.uniform(0.09, 0.15) * full
    angle = rng.uniform(0, math.pi)
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    middle = full / 2 + rng.uniform(-step, step, 2)
    reach = int(0.75 * full / step)
    for i in range(-reach, reach + 1):
        if pattern == "striped":
            wave = np.linspace(-full, full, 12)[:, None]
            line = middle + (i * step + rng.normal(0, 0.1 * step)) * across + wave * along
            line = line + rng.normal(0, 0.06 * step, line.shape)
            width = max(2, round(step * rng.uniform(0.36, 0.52)))
            draw.line([tuple(p) for p in line], fill=255, width=width, joint="curve")
        elif pattern == "dotted":
            for j in range(-reach, reach + 1):
                x, y = middle + step * ((i + 0.5 * (j % 2)) * across + j * along)
                x, y = x + rng.normal(0, 0.07 * step), y + rng.normal(0, 0.07 * step)
                r = step * rng.uniform(0.24, 0.33)
                draw.ellipse((x - r, y - r * 0.9, x + r, y + r * 0.9), fill=255)
    return np.asarray(marks, dtype=np.float32) / 255


def draw(colour: str, pattern: str, shape: str, rng: np.random.RandomState) -> Image.Image:
    """One picture, SIZE x SIZE.

    Args:
        colour, pattern, shape: from COLOURS, PATTERNS ("" is plain) and SHAPES.
        rng: all that differs between pictures of a class comes from here.
    """
    full = 2 * SIZE  # drawn at twice the size, so that edges are smooth
    sheet = Image.fromarray(np.clip(_paper(full, rng), 0, 255).astype(np.uint8))
    _stray_strokes(ImageDraw.Draw(sheet), full, rng)
    canvas: np.ndarray = np.asarray(sheet, dtype=np.float32)

    radius = full * rng.uniform(0.27, 0.42)
    room = max(0.0, full / 2 - radius) * 0.8
    centre = full / 2 + rng.uniform(-room, room, 2)
    turn = rng.uniform(-0.5, 0.5)
    spin = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    stretch = np.exp(rng.uniform(-0.1, 0.1))
    contour = _contour(shape) * [stretch, 1 / stretch]
    rims = [1.0, rng.uniform(0.42, 0.6)] if shape == "ring" else [1.0]
    edges = [_wobble(contour * rim, 0.018, rng) @ spin * radius + centre for rim in rims]

    mask_image = Image.new("L", (full, full), 0)
    pen = ImageDraw.Draw(mask_image)
    for edge, fill in zip(edges, (255, 0), strict=False):
        pen.polygon([tuple(p) for p in edge], fill=fill)
    mask = np.asarray(mask_image, dtype=np.float32)[..., None] / 255

    if rng.randint(2):  # a soft shadow on the paper
        shift = [int(v) for v in rng.randint(3, 9, 2)]
        soft = mask_image.filter(ImageFilter.GaussianBlur(4))
        shadow = np.roll(np.asarray(soft, dtype=np.float32), shift, axis=(0, 1))[..., None] / 255
        canvas = canvas * (1 - 0.35 * shadow)

    tones = COLOURS[colour]
    crayon: np.ndarray = np.array(tones[rng.randint(len(tones))]) + rng.uniform(-10, 10, 3)
    crayon = crayon.astype(np.float32)
    hatch = smooth_noise(full, *((10, 48) if rng.randint(2) else (48, 10)), rng)[..., None]
    cover = np.clip(rng.uniform(0.8, 0.97) + 0.16 * hatch, 0, 1)  # paper shows through
    canvas = canvas + mask * cover * (crayon + 10 * hatch - canvas)
    if pattern:
        others = ((245, 240, 228), crayon * 0.35, (40, 38, 44))
        second = np.array(others[rng.randint(3)], dtype=np.float32)
        marks = _pattern_marks(pattern, full, rng)[..., None]
        canvas = canvas + mask * marks * 0.88 * (second + 8 * hatch - canvas)

    sheet = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(sheet)
    ink = np.array(((38, 34, 40), (84, 60, 48), (60, 64, 96), (120, 116, 110))[rng.randint(4)])
    for _ in range(rng.randint(1, 4)):  # the outline is gone over, never quite in place
        for edge in edges:
            line = edge + rng.normal(0, 1.6, 2) + rng.normal(0, 0.5, edge.shape)
            path = [tuple(p) for p in np.vstack([line, line[:2]])]
            tone = tuple(int(v) for v in np.clip(ink + rng.randint(-12, 13), 0, 255))
            pen.line(path, fill=tone, width=int(rng.randint(2, 4)), joint="curve")

    picture = sheet.resize((SIZE, SIZE), Image.Resampling.BOX)
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) / SIZE - 0.5
    lean = rng.uniform(-0.35, 0.35, 2)
    light = 1 + lean[0] * x + lean[1] * y - rng.uniform(0, 0.35) * (x * x + y * y)
    light = (light * rng.uniform(0.85, 1.08)).astype(np.float32)[..., None]
    canvas = np.asarray(picture, dtype=np.float32) * light
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def picture_of(split: str, label: int, number: int) -> Image.Image:
    """The picture ``number`` of class ``label`` in a split, always the same."""
    seed = [SPLITS.index(split), label, number]
    return draw(*CLASSES[label], np.random.RandomState(seed))  # noqa: NPY002
