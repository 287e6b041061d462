"""The two readings of an image file."""

import os
import struct

import numpy as np
import pytest
from PIL import Image

from common.errors import UsageError
from common.images import AS_SEEN, READINGS, UPSTREAM, read_mask
from dassl.utils import read_image

COLOURS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
PLAIN = Image.fromarray(COLOURS)
GREY = np.asarray(PLAIN.convert("L"))


def turned(image: Image.Image, path, orientation=6, **options) -> None:
    """Save the image so that EXIF alone says which side is up."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, **options)


def pixels(path, reading=AS_SEEN) -> np.ndarray:
    return np.asarray(read_image(path, reading))


def test_a_photograph_stands_upright(tmp_path):
    turned(PLAIN, tmp_path / "x.png")
    assert (pixels(tmp_path / "x.png") == COLOURS).all()
    assert pixels(tmp_path / "x.png", UPSTREAM).shape == (60, 40, 3)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"\xff" * 40])
def test_damaged_exif_is_passed_over(tmp_path, exif):
    PLAIN.save(tmp_path / "x.jpg", quality=100, exif=exif)
    assert (pixels(tmp_path / "x.jpg") == pixels(tmp_path / "x.jpg", UPSTREAM)).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_by_their_range(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path)
    assert (pixels(path) == GREY[..., None]).all()


def test_transparent_parts_are_white(tmp_path):
    layer = PLAIN.convert("RGBA")
    layer.paste((0, 0, 0, 0), (0, 0, 30, 40))
    white = COLOURS.copy()
    white[:, :30] = 255
    layer.save(tmp_path / "rgba.png")
    assert (pixels(tmp_path / "rgba.png") == white).all()
    assert (pixels(tmp_path / "rgba.png", UPSTREAM)[:, :30] == 0).all()
    palette = Image.fromarray((GREY > 128).astype(np.uint8) * 7)
    palette.putpalette([0, 0, 0] * 7 + [9, 8, 7] * 249)
    palette.save(tmp_path / "p.png", transparency=0)
    shown = np.where((GREY > 128)[..., None], (9, 8, 7), 255)
    assert (pixels(tmp_path / "p.png") == shown).all()
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png", transparency=int(GREY[0, 0]) * 257)
    seen = np.where(GREY[0, 0] == GREY, 255, GREY)
    assert (pixels(tmp_path / "deep.png") == seen[..., None]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "CMYK", "I;16"])
@pytest.mark.parametrize("reading", READINGS)
def test_every_mode_becomes_rgb(tmp_path, mode, reading):
    image = PLAIN.convert("L" if mode == "I;16" else mode).convert(mode)
    image.save(tmp_path / "x.tif")
    found = read_image(tmp_path / "x.tif", reading)
    assert (found.mode, found.size) == ("RGB", (60, 40))


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:], lossless=True)
    for reading in READINGS:
        assert (pixels(tmp_path / "x.webp", reading) == (255, 0, 0)).all()


@pytest.mark.parametrize("values", [GREY / 255, GREY.astype(np.int32), GREY.astype(np.int32) - 5])
def test_values_without_an_agreed_range(tmp_path, values):
    dtype = np.float32 if values.dtype == float else np.int32
    Image.fromarray(values.astype(dtype)).save(tmp_path / "x.tiff")
    with pytest.raises(UsageError, match=r"x.tiff \(its greys have no agreed range.*\); replace"):
        read_image(tmp_path / "x.tiff", AS_SEEN)


def write_tiff(path, bits, white_is_zero):
    """Write the plain TIFF file of two rows of four greys that Pillow does not write."""
    greys = [0, 1, 2, 3, 4, 5, 6, 4095]
    packed = "".join(f"{grey:0{bits}b}" for grey in greys)
    data = np.array(greys, "<u2").tobytes() if bits == 16 else int(packed, 2).to_bytes(12, "big")
    tags = {256: 4, 257: 2, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 0, 277: 1, 278: 2}
    tags[279] = len(data)
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, x, 0) for tag, x in tags.items())
    start = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(start + entries + bytes(4) + data)


def test_greys_of_12_bits_and_those_that_count_from_white_are_refused(tmp_path):
    """Pillow gives them as if they were of 16 bits from black: nearly black, or as a negative."""
    path = tmp_path / "x.tif"
    write_tiff(path, 12, white_is_zero=False)
    with pytest.raises(UsageError, match="x.tif .its greys have 12 bits; save it with 8 or 16"):
        read_image(path, AS_SEEN)
    assert read_mask(path).sum() == 7
    write_tiff(path, 16, white_is_zero=True)
    for read in (lambda: read_image(path, AS_SEEN), lambda: read_mask(path)):
        with pytest.raises(UsageError, match="x.tif .its greys of 16 bits count from white; save"):
            read()
    write_tiff(path, 16, white_is_zero=False)
    assert pixels(path).max() == 16 and read_mask(path).sum() == 7


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"<html></html>", "not an image in a format that Pillow reads"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), ""),
    ],
)
def test_what_is_no_image_is_one_line(tmp_path, reading, content, reason):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(UsageError) as raised:
        read_image(path, reading)
    assert str(raised.value).startswith(f"image cannot be decoded: {path} ({reason}")


def test_half_a_photograph(tmp_path):
    path = tmp_path / "x.jpg"
    PLAIN.save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UsageError, match="x.jpg .*truncated"):
        read_image(path, AS_SEEN)


def test_other_things_than_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, complaint in (
        (tmp_path / "pipe.png", "not a regular file"),
        (tmp_path, "not a regular file|Is a directory"),
        (tmp_path / "gone.png", "image not found"),
    ):
        with pytest.raises(UsageError, match=complaint):
            read_image(path)
