"""Image files of every kind, against their pixels as they were made, Pillow, and what training reads."""

import io
import sys

import numpy as np
import pytest
from fixtures import write_png16
from PIL import Image, ImageOps, TiffImagePlugin

from proda_jax.data import decode, pixels
from proda_jax.data.pixels import Unreadable

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
GREY = PIXELS[..., 0]
DEEP = np.random.default_rng(1).integers(0, 2**16, (6, 9, 3)).astype(np.uint16)


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    contents = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(contents, kind, **options)
    return contents.getvalue()


def deep_png(values: np.ndarray, tmp_path) -> bytes:
    write_png16(tmp_path / "deep.png", values)
    return (tmp_path / "deep.png").read_bytes()


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


# What training sees


def with_alpha() -> Image.Image:
    image = Image.fromarray(PIXELS)
    image.putalpha(Image.fromarray(GREY))
    return image


SEEN_BY_TRAINING = {
    "png": lambda: encoded(PIXELS, "PNG"),
    "png of grey": lambda: encoded(GREY, "PNG"),
    "png of one bit": lambda: encoded(GREY > 99, "PNG"),
    "png with alpha": lambda: encoded(with_alpha(), "PNG"),
    "png of grey with alpha": lambda: encoded(with_alpha().convert("LA"), "PNG"),
    "png with a palette": lambda: encoded(Image.fromarray(PIXELS).quantize(40), "PNG"),
    "png with few colours": lambda: encoded(Image.fromarray(PIXELS).quantize(3), "PNG", transparency=1),
    "png with a transparent colour": lambda: encoded(PIXELS, "PNG", transparency=(1, 2, 3)),
    "png of 16 bits": lambda: encoded(DEEP[..., 0], "PNG"),
    "jpeg": lambda: encoded(PIXELS, "JPEG"),
    "jpeg with whole colours": lambda: encoded(PIXELS, "JPEG", subsampling=0),
    "jpeg of grey": lambda: encoded(GREY, "JPEG"),
    "jpeg of four inks": lambda: encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
    "progressive jpeg": lambda: encoded(PIXELS, "JPEG", progressive=True),
}


@pytest.mark.parametrize("kind", SEEN_BY_TRAINING)
def test_a_plain_file_has_the_pixels_that_training_reads(kind):
    file = SEEN_BY_TRAINING[kind]()
    assert pixels.plain(file)
    np.testing.assert_array_equal(pixels.read(file), decode.image(file).numpy())


def test_colour_of_16_bits_is_read_as_training_reads_it(tmp_path):
    file = deep_png(DEEP, tmp_path)
    assert pixels.plain(file) and not pixels.plain(file, (0, 4095))
    np.testing.assert_array_equal(pixels.read(file), decode.image(file).numpy())
    np.testing.assert_array_equal(pixels.read(file), DEEP >> 8)


def test_what_training_cannot_read_as_it_is_is_not_plain():
    turned = Image.Exif()
    turned[0x0112] = 6
    for file in (
        encoded(PIXELS, "JPEG", exif=turned), encoded(PIXELS, "PNG", exif=turned), encoded(PIXELS, "WEBP"),
        encoded(PIXELS, "TIFF"), encoded(PIXELS, "BMP"), encoded(PIXELS, "JPEG2000"), encoded(PIXELS, "AVIF"), b"",
    ):  # fmt: skip
        assert not pixels.plain(file)
    assert not pixels.plain(encoded(DEEP[..., 0], "PNG"), (0, 4095))
    assert pixels.plain(encoded(PIXELS, "PNG"), (0, 4095))  # which has 8 bits


# Orientation


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_the_camera_is_followed(kind, orientation):
    """As Pillow turns images."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(PIXELS, kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB"))
    np.testing.assert_array_equal(pixels.read(file), expected)
    assert expected.shape == ((9, 6, 3) if orientation > 4 else (6, 9, 3))
    assert pixels.is_rotated(file) == (orientation > 1)
    if kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels.read(file, upright=False), PIXELS)


def test_the_orientation_of_16_bits_in_colour_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = deep_png(DEEP, tmp_path)
    chunk = encoded(PIXELS, "PNG", exif=exif)
    start = chunk.index(b"eXIf") - 4
    chunk = chunk[start : start + 12 + int.from_bytes(chunk[start : start + 4], "big")]
    turned = pixels.read(file[:33] + chunk + file[33:])  # after the header
    np.testing.assert_array_equal(turned, np.rot90(DEEP >> 8, -1))


# More than 8 bits


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_grey_of_16_bits_keeps_its_upper_8(kind):
    np.testing.assert_array_equal(pixels.read(encoded(DEEP[..., 0], kind)), repeated(DEEP[..., 0] >> 8))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("in_color", [False, True])
def test_fewer_bits_in_files_of_16_are_never_nearly_black_in_silence(bits, in_color, tmp_path):
    values = DEEP >> (16 - bits)
    values.flat[0] = 2**bits - 1
    file = deep_png(values, tmp_path) if in_color else encoded(values[..., 0], "PNG")
    largest = int(values.max() if in_color else values[..., 0].max())
    with pytest.raises(Unreadable, match=f"no value above {largest}.*value_range 0,{2**bits - 1} takes them as {bits}"):
        pixels.read(file)
    assert pixels.largest_value(file) == largest and pixels.suggested_range(largest) == (0, 2**bits - 1)
    expected = values >> (bits - 8)
    expected = expected if in_color else repeated(expected[..., 0])
    np.testing.assert_array_equal(pixels.read(file, (0, 2**bits - 1)), expected)
    assert pixels.read(file, (0, 65535)).max() == largest >> 8  # asked for by name


def test_black_is_black_and_8_bits_know_no_range():
    np.testing.assert_array_equal(pixels.read(encoded(np.zeros((4, 4), np.uint16), "PNG")), np.zeros((4, 4, 3)))
    np.testing.assert_array_equal(pixels.read(encoded(PIXELS, "PNG"), (0, 4095)), PIXELS)
    assert pixels.largest_value(encoded(PIXELS, "PNG")) is None and pixels.largest_value(encoded(GREY, "TIFF")) is None


def test_a_range_is_cut_into_256_equal_steps():
    """Such as a thermal camera's; what is outside is black and white."""
    values = np.array([[0, 6999, 7000, 7007, 7008, 8000, 9000, 9001, 65535]], np.uint16)
    found = pixels.read(encoded(values, "PNG"), (7000, 9000))[0, :, 0]
    np.testing.assert_array_equal(found, [0, 0, 0, 0, 1, 127, 255, 255, 255])


def test_pixels_of_32_bits_want_a_range():
    values = np.random.default_rng(2).random((6, 9)).astype(np.float32)
    for wrong in (values, (values * 1e6).astype(np.int32)):
        with pytest.raises(Unreadable, match="32 bits: name the values that are black and white as value_range"):
            pixels.read(encoded(wrong, "TIFF"))
    np.testing.assert_array_equal(pixels.read(encoded(values, "TIFF"), (0, 1))[..., 0], np.floor(256 * values))


@pytest.mark.parametrize("given", [(1,), (1, 2, 3), (5, 5), (9, 2)])
def test_a_range_that_is_none_is_refused(given):
    with pytest.raises(ValueError, match="--value_range = .*expected the values that are black and white"):
        pixels.check_range(given, "--value_range")
    assert pixels.check_range((), "x") is None and pixels.check_range([0, 4095], "x") == (0, 4095)


# Size


def test_large_images_are_read_and_pillow_keeps_its_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    file = encoded(PIXELS, "PNG")
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(file))
    np.testing.assert_array_equal(pixels.read(file), PIXELS)
    assert Image.MAX_IMAGE_PIXELS == 20


@pytest.mark.parametrize("kind", ["png", "png with a palette", "png of grey with alpha", "jpeg of four inks"])
def test_an_image_that_is_converted_in_bands_is_the_same(kind, monkeypatch):
    file = SEEN_BY_TRAINING[kind]()
    whole = pixels.read(file)
    monkeypatch.setattr(pixels, "_BAND", 20)  # two rows
    np.testing.assert_array_equal(pixels.read(file), whole)


# Other kinds


@pytest.mark.parametrize(
    ("kind", "options"),
    [("WEBP", {"lossless": True}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("JPEG2000", {}), ("PPM", {}),
     ("TGA", {}), ("QOI", {}), ("GIF", {})],
)  # fmt: skip
def test_lossless_files_give_their_pixels(kind, options):
    np.testing.assert_array_equal(pixels.read(encoded(PIXELS, kind, **options)), PIXELS)


def test_lossy_files_give_nearly_their_pixels():
    smooth = np.stack(np.broadcast_arrays(*np.ogrid[0:64, 0:96], 100), -1).astype(np.uint8)
    for kind in ("JPEG", "WEBP", "AVIF"):
        found = pixels.read(encoded(smooth, kind, quality=95))
        assert found.shape == smooth.shape and np.abs(found.astype(int) - smooth).mean() < 2


def test_heic_is_read_by_its_package():
    heif = pytest.importorskip("pillow_heif")
    smooth = np.stack(np.broadcast_arrays(*np.ogrid[0:64, 0:96], 100), -1).astype(np.uint8)
    contents = io.BytesIO()
    heif.from_pillow(Image.fromarray(smooth)).save(contents, quality=95)
    found = pixels.read(contents.getvalue())
    assert found.shape == smooth.shape and np.abs(found.astype(int) - smooth).mean() < 3


def test_heic_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(Unreadable, match="HEIC is read by a package .*: pip install pillow-heif"):
        pixels.read(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


def test_the_preview_in_a_raw_file_of_a_camera_is_not_taken_for_the_image():
    with pytest.raises(Unreadable, match="raw file, of which Pillow reads the preview alone: develop it first"):
        pixels.read(encoded(PIXELS, "TIFF", tiffinfo={254: 1}))


@pytest.mark.parametrize(
    ("contents", "message"),
    [(b"", "it is empty"), (b"GIF? no", "no image"), (encoded(PIXELS, "PNG")[:-40], "truncated")],
)
def test_what_is_no_image_or_half_of_one_says_so(contents, message):
    with pytest.raises(Unreadable, match=message):
        pixels.read(contents)


def test_no_other_program_draws_a_postscript_file_whatever_its_name(monkeypatch):
    """Pillow has Ghostscript draw it where that is installed."""
    started: list = []
    monkeypatch.setattr("subprocess.check_call", lambda *command, **_: started.append(command))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    with pytest.raises(Unreadable, match="PostScript file, .*: convert it to PNG"):
        pixels.read(encoded(PIXELS, "EPS"))
    assert not started


def test_files_of_several_pages_are_told_from_those_with_a_preview():
    image, other = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    smaller = TiffImagePlugin.ImageFileDirectory_v2()
    smaller[254] = 1
    preview = other.copy()
    preview.encoderinfo = {"tiffinfo": smaller}

    def paged(kind: str, *more: Image.Image, **options) -> bool:
        with pixels.opened(encoded(image, kind, save_all=True, append_images=more, **options)) as file:
            return pixels.has_pages(file)

    for kind in ("TIFF", "GIF", "WEBP", "PNG"):
        assert paged(kind, other) and not paged(kind), kind
    assert not paged("MPO", other) and not paged("TIFF", preview)
