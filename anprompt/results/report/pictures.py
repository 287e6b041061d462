"""Pictures on the page: small, few, and only from where they may come from."""

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

MAX_PICTURE = 1 << 20  # bytes; the examples that an evaluation keeps have a few thousand
MAX_TEST_IMAGE = 1 << 25
FORMATS = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp"}
READ = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]
SIDE = 96  # pixels of a test image on the page
MOST = 300  # test images on the page, about 3 KB each


def picture(folder: Path, name: str) -> str:
    """Return a run's example picture as a data URI; "" where it is gone or none of its own.

    Only a file below the run's own folder, links resolved, that decodes as a picture: whatever else
    robustness.json may name, no other file of the machine ends in the page.
    """
    content = _read(folder, name, MAX_PICTURE)
    if content is None:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # absurd sizes warn before they fail
            with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
                image.load()
                kind = FORMATS[str(image.format)]
    except _UNREADABLE:
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


_UNREADABLE = (
    OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError, RuntimeError,
)  # fmt: skip


def _read(folder: Path, name: str, most: int) -> bytes | None:
    """Return a file's content; None unless it lies below the folder, links resolved."""
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            return None
        return path.read_bytes() if path.stat().st_size <= most else None
    except (OSError, ValueError, RuntimeError):
        return None


class TestImages:
    """Small pictures of test images, from folders that the user has named, up to a number.

    Args:
        roots: folders that hold data sets. Never taken from a run's files.
        most: pictures.
    """

    __test__ = False  # pytest: not a class of tests

    def __init__(self, roots: Sequence[Path], most: int = MOST):
        self._roots = roots
        self._left = most
        self._found: dict[str, str] = {}

    def uri(self, name: str) -> str:
        """Return a picture as a data URI; "" where there is none or the page is full."""
        if name in self._found:
            return self._found[name]
        if self._left <= 0:
            return ""
        for root in self._roots:
            content = _read(root, name, MAX_TEST_IMAGE)
            uri = _small(content) if content else ""
            if uri:
                self._left -= 1
                self._found[name] = uri
                return uri
        return ""


def _small(content: bytes) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(content), formats=READ) as image:
                image.draft("RGB", (2 * SIDE, 2 * SIDE))
                shown = image.convert("RGB")
        shown.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        shown.save(buffer, "JPEG", quality=75)
    except _UNREADABLE:
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
