"""ImageNet-C's released code run on this project's test pictures, and what it gave.

    ROBUSTNESS_REPO=CHECKOUT python tests/noise/released_imagenet_c.py

writes tests/golden/imagenet_c.npz anew. CHECKOUT is github.com/hendrycks/robustness at 8190fe3;
scikit-image, opencv-python (4) and Wand with ImageMagick (6) must be importable. The released code
is read from the checkout and run with its random numbers drawn from a NumPy generator.
"""

import contextlib
import os
import pathlib
import sys
import tempfile
import types

import numpy as np
from PIL import Image

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "imagenet_c.npz"
FILES = {224: "make_imagenet_c.py", 64: "make_tinyimagenet_c.py", 32: "make_cifar_c.py"}
SAMPLES = 96
NEEDS = ("skimage", "cv2", "wand.image")


def picture(n, seed=0):
    """A square picture with smooth parts, edges and texture, made of whole numbers only."""
    y, x = np.mgrid[0:n, 0:n]
    channels = []
    for c in range(3):
        smooth = (x * (3 + c) + y * (5 - c)) * 160 // (8 * n)
        disc = ((x - n // 3 - seed) ** 2 + (y - n // 2 + c) ** 2 < (n // 4) ** 2) * (60 + 20 * c)
        texture = (x * x * 7 + y * 13 * (c + 1) + x * y * (seed + 3)) % 23
        channels.append(np.clip(smooth + disc + texture, 0, 255))
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def frost_pictures():
    """Six pictures that stand in for those of frost."""
    return [picture(320, seed).crop((0, 0, 320, 260 + 8 * seed)) for seed in range(6)]


def places(n):
    """Which of a picture's (n, n, 3) values are kept."""
    return np.arange(SAMPLES) * (n * n * 3 // SAMPLES) + np.arange(SAMPLES) % 3


class _Draws:
    """np.random as the released code calls it."""

    def __init__(self):
        self.rng = None

    def normal(self, size=None, loc=0.0, scale=1.0):
        return self.rng.normal(loc, scale, size)

    def poisson(self, mean):
        return self.rng.poisson(mean)

    def uniform(self, low, high, size=None):
        return self.rng.uniform(low, high, size)

    def randint(self, low, high=None, size=None):
        return self.rng.integers(low, high, size)


class _NumPy(types.ModuleType):
    """NumPy with what it had when the code was released."""

    def __init__(self):
        super().__init__("numpy")
        self.random, self.float_, self.fromstring = _Draws(), np.float64, np.frombuffer

    def __getattr__(self, name):
        return getattr(np, name)


def released(checkout, n):
    """A function (kind, picture, severity, generator) -> uint8 (n, n, 3) of the released code."""
    import skimage.util

    path = pathlib.Path(checkout) / "ImageNet-C" / "create_c" / FILES[n]
    text = path.read_text(encoding="utf-8")
    text = text[text.index("# /////////////// Distortion Helpers") :]
    text = text[: text.index("# /////////////// End Distortions")]
    for old, new in (
        ("import numpy as np\n", ""),
        ("scipy.ndimage.interpolation", "scipy.ndimage"),
        ("multichannel=True", "channel_axis=-1"),
        (", mode='L')", ")"),
        ("sk.util.random_noise(", "random_noise("),
    ):
        text = text.replace(old, new)
    numpy = _NumPy()

    def random_noise(x, mode, amount):
        return skimage.util.random_noise(x, mode=mode, amount=amount, rng=numpy.random.rng)

    namespace = {"np": numpy, "random_noise": random_noise}
    exec(compile(text, str(path), "exec"), namespace)

    def run(kind, image, severity, rng):
        numpy.random.rng = rng
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for i, frost in enumerate(frost_pictures(), start=1):
                frost.save(f"frost{i}.{'png' if i < 4 else 'jpg'}", format="PNG")
            return np.uint8(np.asarray(namespace[kind](image, severity)))

    return run


def record(checkout):
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
    from noise.imagenet_c import ALL_KINDS

    found = {}
    for n in FILES:
        run = released(checkout, n)
        for kind in ALL_KINDS:
            found[f"{kind}_{n}"] = np.stack(
                [
                    run(kind, picture(n), s, np.random.default_rng(s)).reshape(-1)[places(n)]
                    for s in range(1, 6)
                ]
            )
    np.savez_compressed(GOLDEN, **found)
    print(f"{GOLDEN}: {len(found)} kinds and sizes, {GOLDEN.stat().st_size:,} bytes")


if __name__ == "__main__":
    record(os.environ["ROBUSTNESS_REPO"])
