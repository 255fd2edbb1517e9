"""Pixels of large PNG files: Pillow's, whatever filters the rows have; other files are left to other decoders."""

import io
import struct
import zlib

import numpy as np
import pytest
import raw_files
from PIL import Image

from proda_jax.data import png_pixels

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of channels


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    monkeypatch.setattr(png_pixels, "LARGE", 1)


def png(pixels: np.ndarray, filters) -> bytes:
    """A PNG whose rows have these filters, by the specification's formulas."""
    height, width, channels = pixels.shape
    padded = np.zeros((height + 1, width + 1, channels), np.int64)
    padded[1:, 1:] = pixels
    left, up, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    estimate = left + up - corner
    far = np.abs(estimate - np.stack([left, up, corner]))  # the first of equally near ones is taken
    paeth = np.take_along_axis(np.stack([left, up, corner]), far.argmin(0)[None], 0)[0]
    predicted = [0 * left, left, up, (left + up) // 2, paeth]
    rows = b"".join(
        bytes([kind]) + ((pixels[i] - predicted[kind][i]) % 256).astype(np.uint8).tobytes()
        for i, kind in zip(range(height), filters, strict=True)
    )
    compressed = zlib.compress(rows)
    color = {1: 0, 3: 2, 4: 6}[channels]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0))
    parts = [chunk(b"IDAT", compressed[i : i + 100]) for i in range(0, len(compressed), 100)]
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tEXt", b"of\x00a camera") + b"".join(parts) + chunk(b"IEND", b"")


def chunk(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))


def by_pillow(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("channels", MODES)
def test_rows_of_each_filter_have_pillows_pixels(channels):
    """Every filter first, where there is no row above, and behind every other one."""
    filters = [a for first in range(5) for second in range(5) for a in (first, second)]
    smooth = Image.fromarray(raw_files.noise(9, 7, channels).squeeze()).resize((13, len(filters)))
    pixels = np.asarray(smooth).reshape(len(filters), 13, channels)
    for first in range(5):
        file = png(pixels, [first, *filters[1:]])
        found = png_pixels.pixels(file)
        assert found.dtype == np.uint8 and found.flags.c_contiguous
        np.testing.assert_array_equal(found, by_pillow(file))
        np.testing.assert_array_equal(found, np.broadcast_to(pixels[..., :3], found.shape))


def test_a_photograph_of_pillow_has_its_pixels():
    image = Image.fromarray(raw_files.noise(30, 40, 3)).resize((233, 101), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(png_pixels.pixels(raw_files.encoded(image, "PNG")), np.asarray(image))


def test_an_image_of_one_pixel():
    np.testing.assert_array_equal(png_pixels.pixels(png(np.full((1, 1, 3), 7, np.uint8), [4])), np.full((1, 1, 3), 7))


def damaged():
    whole = png(raw_files.noise(20, 30, 3), [4] * 20)
    checksum = bytearray(whole)
    checksum[whole.index(b"IDAT") + 104] ^= 1
    at = whole.index(b"IDAT") - 4
    yield "empty", b""
    yield "a header alone", whole[:33]
    yield "cut off", whole[:-30]
    yield "without its end", whole[:-12]
    yield "checksum", bytes(checksum)
    yield "no such filter", png_of_rows(bytes([9]) + bytes(90))
    yield "too few rows", png_of_rows(bytes(91), height=2)
    yield "too many rows", png_of_rows(bytes(182))
    yield "a chunk that nobody may pass over", whole[:at] + chunk(b"NEWS", b"") + whole[at:]
    yield "a header that promises too much", png_of_rows(bytes(91), height=2**31 - 1)
    yield "not compressed", png_of_rows(bytes(91), compress=lambda rows: rows)


def png_of_rows(rows: bytes, height: int = 1, compress=zlib.compress) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("file", [pytest.param(file, id=name) for name, file in damaged()])
def test_damaged_files_are_left_to_decoders_that_say_so(file):
    assert png_pixels.pixels(file) is None


def test_other_kinds_are_left_to_other_decoders():
    image = Image.fromarray(raw_files.noise(20, 30, 3))
    sixteen = Image.fromarray(raw_files.noise(20, 30).astype(np.uint16) * 200)
    for other in (
        raw_files.encoded(image.quantize(16), "PNG"), raw_files.encoded(sixteen, "PNG"),
        raw_files.encoded(image.convert("1"), "PNG"), raw_files.encoded(image.convert("LA"), "PNG"),
        raw_files.encoded(image, "JPEG"),
    ):  # fmt: skip
        assert png_pixels.pixels(other) is None
    interlaced = bytearray(raw_files.encoded(image, "PNG"))
    interlaced[28] = 1
    assert png_pixels.pixels(bytes(interlaced)) is None


def test_small_ones_are_left_to_other_decoders(monkeypatch):
    file = raw_files.encoded(Image.fromarray(raw_files.noise(20, 30, 3)), "PNG")
    assert png_pixels.pixels(file) is not None
    monkeypatch.setattr(png_pixels, "LARGE", 601)
    assert png_pixels.pixels(file) is None


def test_without_its_packages_other_decoders_are_asked(monkeypatch):
    monkeypatch.setattr(png_pixels, "_packages", lambda: None)
    assert png_pixels.pixels(raw_files.encoded(Image.fromarray(raw_files.noise(20, 30, 3)), "PNG")) is None
