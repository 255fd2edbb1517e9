"""Which files a path, a folder or a pattern means, what was passed over, and what results are called."""

import io
import os
import unicodedata

import av
import numpy as np
import pytest
from PIL import Image

from proda_jax.inference import images
from proda_jax.system import folders


def write(folder, *names: str):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "b.png", "a.jpg", "sub/deep/c.TIF", "sub/d.mp4", "notes.txt", ".hid.png", ".git/e.png", "out/f.png")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    return tmp_path


def names(pattern, output="elsewhere", kinds=()) -> list[str]:
    return [entry.name for entry in images.find(str(pattern), output, kinds)[0]]


def passed_over(pattern, output="elsewhere") -> dict[str, int]:
    return dict(images.find(str(pattern), output)[1].counts)


def test_a_written_png_reads_the_same():
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    for pixels in (np.stack([grey, 2 * grey, 5 * grey], axis=-1), grey, grey.astype(np.uint16) * 1000):
        np.testing.assert_array_equal(Image.open(io.BytesIO(images.png(pixels))), pixels)


def test_a_folder_is_searched_with_what_is_in_it_but_not_the_output(folder):
    found, passed = images.find(str(folder), folder / "out")
    assert [entry.name for entry in found] == ["a", "b", "sub/d", "sub/deep/c"]
    assert [entry.is_video for entry in found] == [False, False, True, False]
    assert passed.counts == {folders.HIDDEN: 2, folders.SEARCHED: 1, "that end in .txt": 1} and not passed.lost
    assert "out/f" in names(folder, folder / "elsewhere")


@pytest.mark.parametrize("pattern", ["{}", "{}/*"])
def test_results_beside_the_input_are_no_input(folder, pattern):
    write(folder, "ids/b.png", "sub/ids/d.png")
    assert names(pattern.format(folder), folder, ["ids"]) == ["a", "b", "out/f", "sub/d", "sub/deep/c", "sub/ids/d"]
    assert names(pattern.format(folder / "sub"), folder, ["ids"]) == ["d", "deep/c", "ids/d"]


def test_a_network_drive_has_folders_of_thumbnails_that_are_named_like_images(tmp_path):
    write(tmp_path, "IMG_0.jpg", "@eaDir/IMG_0.jpg/SYNOPHOTO_THUMB_XL.jpg", "Thumbs.db", "album.jpg/1.jpg")
    assert names(tmp_path) == ["IMG_0", "album.jpg/1"]
    assert passed_over(tmp_path) == {folders.SYSTEM: 2}


def test_names_that_are_not_utf8_are_counted_as_lost(tmp_path):
    write(tmp_path, "a.png")
    with open(os.path.join(os.fsencode(tmp_path), b"stra\xdfe.png"), "wb"):
        pass
    found, passed = images.find(str(tmp_path), "elsewhere")
    assert [entry.name for entry in found] == ["a"] and passed.lost == 1
    os.unlink(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"no file that is an image .*passed over: 1 with names that are not UTF-8"):
        images.find(str(tmp_path), "elsewhere")


def test_a_file_is_taken_whatever_its_name(folder):
    assert names(folder / "notes.txt") == ["notes"]
    assert names(folder / "sub/deep/c.TIF") == ["c"]
    assert names(folder / ".hid.png") == [".hid"]


# Videos


def write_video(path, container: str) -> None:
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        file.mux(stream.encode(frame))
        file.mux(stream.encode())


def test_videos_are_known_by_what_they_hold(tmp_path):
    for name, container in {"a.ts": "mpegts", "b": "mp4", "c.dat": "avi", "d.wmv": "asf", "e.3gp": "3gp"}.items():
        write_video(tmp_path / name, container)
    (tmp_path / "code.ts").write_text("export const a = 3;\n" * 50)
    (tmp_path / "notes.txt").write_text("not a video\n" * 50)
    write(tmp_path, "damaged.mp4", "damaged.mts", "README")
    found, passed = images.find(str(tmp_path), "elsewhere")
    there = ["a.ts", "b", "c.dat", "d.wmv", "damaged.mp4", "damaged.mts", "e.3gp"]
    assert [entry.path.name for entry in found] == there
    assert all(entry.is_video for entry in found)
    assert passed.counts == {"that end in .ts": 1, "that end in .txt": 1, "without an ending": 1}


def test_no_other_file_and_no_address_is_opened_to_find_that_out(tmp_path):
    """FFmpeg would follow lists of files, and wait for machines that do not answer."""
    write_video(tmp_path / "a.mp4", "mp4")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://192.0.2.1/a.ts\n")
    (tmp_path / "more.txt").write_text("ffconcat version 1.0\nfile a.mp4\n")
    (tmp_path / "session").write_text("v=0\no=- 0 0 IN IP4 192.0.2.1\ns=x\nt=0 0\nm=video 5004 RTP/AVP 96\n")
    assert names(tmp_path) == ["a"]


# Patterns


def test_a_pattern_keeps_the_places_below_where_it_begins(folder, monkeypatch):
    assert names(f"{folder}/*.png") == ["b"]
    assert names(f"{folder}/s*/d*") == ["sub/d", "sub/deep/c"]
    assert names(f"{folder}/**/*.png", folder / "out") == ["b"]
    assert names(f"{folder}/**/c.*") == ["sub/deep/c"] and names(f"{folder}/sub/**") == ["d", "deep/c"]
    assert names(f"{folder}/?.[jp]*") == ["a", "b"]
    monkeypatch.chdir(folder)
    assert names("*.jpg") == ["a"]


def test_a_pattern_searches_no_folder_that_cannot_fit(folder, monkeypatch):
    listed, real = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(os.path.basename(path)) or real(path))
    assert names(f"{folder}/*.png") == ["b"] and listed == [folder.name]


def test_brackets_are_names_where_there_are_such_names(tmp_path):
    write(tmp_path, "x[1].png", "x1.png", "trip[2]/a[3].png", "trip2/a.png", "day/a3.png", "day/a[3].png")
    assert names(tmp_path / "x[1].png") == ["x[1]"]
    assert names(f"{tmp_path}/trip[2]/*.png") == ["a[3]"] == names(f"{tmp_path}/trip[2]")
    assert names(f"{tmp_path}/x[0-9].png") == ["x1"]
    assert names(f"{tmp_path}/d*/a[3].png") == ["day/a3", "day/a[3]"]


def test_a_pattern_finds_names_in_another_unicode_form(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Köln") for form in ("NFC", "NFD"))
    write(tmp_path, f"{apart}_1.png")
    assert names(f"{tmp_path}/{composed}*.png") == [f"{composed}_1"] == names(f"{tmp_path}/{apart}*.png")


def test_what_a_pattern_names_by_its_ending_is_taken(folder):
    assert names(f"{folder}/*.txt") == ["notes"]
    assert names(f"{folder}/*") == ["a", "b", "out/f", "sub/d", "sub/deep/c"]


def test_a_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert names("~/sub") == ["d", "deep/c"] and names("~/*.png") == ["b"]


# Names of results


def test_results_of_files_that_differ_in_their_ending_have_names_of_their_own(tmp_path):
    write(tmp_path, "a.png", "a.jpg", "a.png.bmp", "b.png", "A.tif", "sub/a.png")
    found = {str(entry.path.relative_to(tmp_path)): entry.name for entry in images.find(str(tmp_path), "elsewhere")[0]}
    whole = ("a.png", "a.jpg", "a.png.bmp", "A.tif")
    assert found == {name: name for name in whole} | {"b.png": "b", "sub/a.png": "sub/a"}


def test_results_of_long_names_have_names_that_disks_allow(tmp_path):
    long = ["ü" * 125 + f"{number}.jpg" for number in (1, 2)]  # 255 bytes, and their results in their whole names more
    write(tmp_path, *long, *(name.replace(".jpg", ".png") for name in long))
    found = names(tmp_path)
    assert len(set(found)) == 4 and all(len(f"{name}.png".encode()) <= 255 for name in found)
    assert found == names(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("absent.png", "nothing of that name"), ("absent/*.png", "no file that is an image"), ("empty", "no file that is"),
     ("x" * 300, "nothing of that name"), ("empty/[1]/a.png", "no file that is")],
)  # fmt: skip
def test_nothing_to_predict_is_refused(pattern, message, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"--input={tmp_path}/.*{message}"):
        images.find(str(tmp_path / pattern), "elsewhere")
