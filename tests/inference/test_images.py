"""Image files of every kind, against their pixels as they were made; and which files are meant."""

import io

import numpy as np
import pytest
from fixtures import write_png16
from PIL import Image

from proda_jax.inference import images

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
GREY = np.random.default_rng(1).integers(0, 256, (6, 9)).astype(np.uint8)
REPEATED = np.repeat(GREY[..., None], 3, axis=-1)


def saved(path, image: Image.Image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}), ("a.webp", {"lossless": True}), ("a.bmp", {}), ("a.tif", {}),
        ("a.TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_lossless_files_give_their_pixels(name, options, tmp_path):
    path = saved(tmp_path / name, Image.fromarray(PIXELS), **options)
    np.testing.assert_array_equal(images.read(path), PIXELS)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lossy_files_give_nearly_their_pixels(name, tmp_path):
    smooth = np.stack(np.broadcast_arrays(*np.ogrid[0:64, 0:96], 100), -1).astype(np.uint8)
    read = images.read(saved(tmp_path / name, Image.fromarray(smooth), quality=95))
    assert read.shape == smooth.shape and np.abs(read.astype(int) - smooth).mean() < 2


def test_an_ending_that_lies_does_no_harm(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(PIXELS), format="PNG")
    np.testing.assert_array_equal(images.read(path), PIXELS)


def test_grey_is_repeated(tmp_path):
    np.testing.assert_array_equal(images.read(saved(tmp_path / "a.png", Image.fromarray(GREY))), REPEATED)
    two_levels = Image.fromarray(GREY > 99)
    np.testing.assert_array_equal(
        images.read(saved(tmp_path / "b.png", two_levels)), np.repeat(255 * (GREY > 99)[..., None], 3, axis=-1)
    )


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_of_16_bits_keeps_its_upper_8(name, tmp_path):
    deep = GREY.astype(np.uint16) * 256 + 77
    np.testing.assert_array_equal(images.read(saved(tmp_path / name, Image.fromarray(deep))), REPEATED)


def test_colour_of_16_bits_keeps_its_upper_8(tmp_path):
    write_png16(tmp_path / "a.png", PIXELS.astype(np.uint16) * 256 + 77)
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), PIXELS)


@pytest.mark.parametrize("transparent", [None, 3, bytes(range(250))])
def test_palettes_give_their_colours(transparent, tmp_path):
    palette = np.random.default_rng(2).integers(0, 256, (256, 3)).astype(np.uint8)
    image = Image.frombytes("P", (9, 6), GREY.tobytes())
    image.putpalette(palette.tobytes())
    options = {} if transparent is None else {"transparency": transparent}
    np.testing.assert_array_equal(images.read(saved(tmp_path / "a.png", image, **options)), palette[GREY])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped(mode, tmp_path):
    image = Image.fromarray(PIXELS if mode == "RGBA" else GREY)
    image.putalpha(Image.fromarray(GREY))
    expected = PIXELS if mode == "RGBA" else REPEATED
    assert image.mode == mode
    np.testing.assert_array_equal(images.read(saved(tmp_path / "a.png", image)), expected)


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [(3, PIXELS[::-1, ::-1]), (6, np.rot90(PIXELS)), (8, np.rot90(PIXELS, -1)), (2, PIXELS[:, ::-1])],
)
def test_the_orientation_of_the_camera_is_followed(orientation, stored, tmp_path):
    """6 says: turn what is stored clockwise by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(images.read(path), PIXELS)


def test_of_several_pages_the_first_is_taken(tmp_path):
    others = [Image.fromarray(REPEATED)]
    path = saved(tmp_path / "a.tif", Image.fromarray(PIXELS), save_all=True, append_images=others)
    np.testing.assert_array_equal(images.read(path), PIXELS)


def png_of(pixels: np.ndarray) -> bytes:
    contents = io.BytesIO()
    Image.fromarray(pixels).save(contents, "PNG")
    return contents.getvalue()


@pytest.mark.parametrize(
    ("contents", "message"),
    [(b"", "no image"), (b"GIF? no", "no image"), (png_of(PIXELS)[:-40], "truncated")],
)
def test_what_is_no_image_or_half_of_one_says_so(contents, message, tmp_path):
    (tmp_path / "a.png").write_bytes(contents)
    with pytest.raises(images.Unreadable, match=message):
        images.read(tmp_path / "a.png")


def test_pixels_of_32_bits_are_refused(tmp_path):
    with pytest.raises(images.Unreadable, match="32 bits: convert it to 8 or 16"):
        images.read(saved(tmp_path / "a.tif", Image.fromarray(GREY.astype(np.float32))))


def test_a_written_png_reads_the_same():
    for pixels in (PIXELS, GREY):
        np.testing.assert_array_equal(Image.open(io.BytesIO(images.png(pixels))), pixels)


# Which files


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.jpg", "sub/deep/c.TIF", "sub/d.mp4", "notes.txt", ".hid.png", ".git/e.png", "out/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    return tmp_path


def names(found: list[images.Input]) -> list[str]:
    return [entry.name for entry in found]


def test_a_folder_is_searched_with_what_is_in_it_but_not_the_output(folder):
    found = images.find(str(folder), folder / "out")
    assert names(found) == ["a", "b", "sub/d", "sub/deep/c"]
    assert [entry.is_video for entry in found] == [False, False, True, False]
    assert "out/f" in names(images.find(str(folder), folder / "elsewhere"))


@pytest.mark.parametrize("pattern", ["{}", "{}/*"])
def test_results_beside_the_input_are_no_input(folder, pattern):
    for name in ("ids/b.png", "sub/ids/d.png"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"")
    for name in ("notes.txt", "sub/loop"):
        (folder / name).unlink()
    assert names(images.find(pattern.format(folder), folder, ["ids"])) == [
        "a", "b", "out/f", "sub/d", "sub/deep/c", "sub/ids/d",
    ]  # fmt: skip
    assert names(images.find(pattern.format(folder / "sub"), folder, ["ids"])) == ["d", "deep/c", "ids/d"]


def test_a_file_is_taken_whatever_its_name(folder):
    assert names(images.find(str(folder / "notes.txt"), "elsewhere")) == ["notes"]
    assert names(images.find(str(folder / "sub/deep/c.TIF"), "elsewhere")) == ["c"]


def test_a_pattern_keeps_the_places_below_where_it_begins(folder, monkeypatch):
    assert names(images.find(f"{folder}/*.png", "elsewhere")) == ["b"]
    assert names(images.find(f"{folder}/s*/d*", "elsewhere")) == ["sub/d", "sub/deep/c"]
    (folder / "sub" / "loop").unlink()
    assert names(images.find(f"{folder}/**/*.png", folder / "out")) == ["b"]
    monkeypatch.chdir(folder)
    assert names(images.find("*.jpg", "elsewhere")) == ["a"]


def test_a_name_that_looks_like_a_pattern_is_a_name_where_there_is_such_a_file(folder):
    (folder / "x[1].png").write_bytes(b"")
    assert names(images.find(str(folder / "x[1].png"), "elsewhere")) == ["x[1]"]


def test_results_of_files_that_differ_in_their_ending_have_names_of_their_own(tmp_path):
    for name in ("a.png", "a.jpg", "a.png.bmp", "b.png", "A.tif", "sub/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = {str(entry.path.relative_to(tmp_path)): entry.name for entry in images.find(str(tmp_path), "elsewhere")}
    whole = ("a.png", "a.jpg", "a.png.bmp", "A.tif")
    assert found == {name: name for name in whole} | {"b.png": "b", "sub/a.png": "sub/a"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("absent.png", "nothing of that name"), ("absent/*.png", "no file ends in .png"), ("empty", "no file ends")],
)
def test_nothing_to_predict_is_refused(pattern, message, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"--input={tmp_path}/.*{message}"):
        images.find(str(tmp_path / pattern), "elsewhere")
