"""Read an image file into RGB pixels, in one of two ways.

``upstream``
    What Dassl trains on: Pillow's ``convert("RGB")``. Published data sets are read so, because
    published results were made so.
``as_seen``
    What an image viewer shows: turned as EXIF says, transparent parts on white, 16-bit greys
    brought to 8 bits. Images of one's own are read so, in training and everywhere else.

Of an animation both take the first frame. Colour profiles are not applied.
"""

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from common.errors import UsageError, one_line

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Found = TypeVar("Found")

__all__ = ["READINGS", "UPSTREAM", "AS_SEEN", "as_seen", "read_image", "read_mask"]

FROM_WHITE = "its greys of 16 bits count from white; save it with 8 bits a channel"
UPSTREAM, AS_SEEN = READINGS = ("upstream", "as_seen")


def read_image(path: str | os.PathLike, reading: str = UPSTREAM) -> "Image.Image":
    """Return a decoded RGB image.

    Args:
        path: a regular file.
        reading: one of ``READINGS``.

    Raises:
        UsageError: no such file, or one that Pillow cannot decode, or whose values have no agreed
            range (``as_seen``); names the path.
    """
    return _read(path, lambda image: convert(image, reading))


def read_mask(path: str | os.PathLike) -> "np.ndarray":
    """Return which pixels of a mask are marked: (height, width) booleans.

    Marked is what is not black, of whatever depth; in a JPEG, whose edges are blurred, what is
    brighter than 127. Transparency says nothing.

    Raises:
        UsageError: no such file, or one that Pillow cannot decode, or whose black is not 0; names
            the path.
    """
    return _read(path, _marked)


def _marked(image: "Image.Image") -> "np.ndarray":
    import numpy as np

    least = 127 if image.format == "JPEG" else 0
    if image.mode.startswith("I") and _counts_from_white(image):
        raise UsageError(FROM_WHITE)
    image = _upright(image)
    if image.mode in ("P", "LA", "La", "RGBA", "RGBa", "PA", "CMYK", "YCbCr", "HSV", "LAB"):
        image = image.convert("RGB")
    values = np.asarray(image)
    return np.asarray((values.reshape(*values.shape[:2], -1) > least).any(axis=-1))


def _read(path: str | os.PathLike, decode: "Callable[[Image.Image], Found]") -> "Found":
    from PIL import Image

    try:
        # Without waiting: opening a pipe that nobody writes to would hang.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError("not a regular file")
            if not status.st_size:
                raise UsageError("an empty file")
            with Image.open(file) as image:
                return decode(image)
    except FileNotFoundError:
        raise UsageError(f"image not found: {path}") from None
    except Exception as error:  # Pillow raises half a dozen unrelated types for damaged files
        raise UsageError(
            f"image cannot be decoded: {path} ({_reason(error, path)}); replace or remove it"
        ) from error


def _reason(error: Exception, path: str | os.PathLike) -> str:
    if isinstance(error, UsageError):
        return str(error)
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that Pillow reads"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {one_line(error)}"


def convert(image: "Image.Image", reading: str) -> "Image.Image":
    """Return an opened image in RGB, by one of ``READINGS``."""
    return as_seen(image) if reading == AS_SEEN else image.convert("RGB")


def as_seen(image: "Image.Image") -> "Image.Image":
    """Return an RGB image as viewers show it.

    Raises:
        UsageError: its greys have no agreed range (floating point, more than 16 bits), or Pillow
            gives them otherwise than from 0 to 65,535 (12 bits, counted from white).
    """
    from PIL import Image

    bits, is_inverted = _bits_of_tiff(image), _counts_from_white(image)
    image = _upright(image)
    if image.mode.startswith(("I", "F")):
        if is_inverted:
            raise UsageError(FROM_WHITE)
        image = _eight_bits(image, bits)
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _upright(image: "Image.Image") -> "Image.Image":
    """Return the image turned as EXIF says; EXIF data that cannot be read is passed over."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever damaged EXIF data raises; damaged pixels raise again when used
        return image


def _bits_of_tiff(image: "Image.Image") -> int:
    """Return the bits per value that a TIFF file declares, 0 for other files."""
    tags = getattr(image, "tag_v2", None)
    bits = tags.get(258) if tags is not None else None  # BitsPerSample
    return max(bits, default=0) if isinstance(bits, tuple) else bits or 0


def _counts_from_white(image: "Image.Image") -> bool:
    """Return whether 0 is white in a TIFF file; of greys of 8 bits Pillow turns this round."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(262) == 0  # PhotometricInterpretation


def _eight_bits(image: "Image.Image", bits: int) -> "Image.Image":
    """Return greys of 16 bits, 0 to 65,535, as 8 bits. Transparent ones become white."""
    import numpy as np
    from PIL import Image

    if 8 < bits < 16:
        raise UsageError(f"its greys have {bits} bits; save it with 8 or 16 bits a channel")
    grey = np.asarray(image)
    no_range = image.mode == "F" or bits > 16 or grey.min() < 0 or grey.max() > 0xFFFF
    if no_range:
        raise UsageError("its greys have no agreed range; save it with 8 bits a channel")
    scaled = (grey / 257 + 0.5).astype(np.uint8)
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        scaled[grey == hidden] = 255
    return Image.fromarray(scaled)
