"""Which files of a folder are images, whatever else it holds."""

import os
import shutil
import socket
import unicodedata

import pytest

from proda_jax.system import folders
from proda_jax.system.folders import PassedOver, listing

ENDINGS = (".png", ".jpg")


def write(folder, *names: str):
    for name in names:
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    return folder


def found(folder, **options) -> list[str]:
    return list(listing(folder, ENDINGS, **options).files)


def reasons(folder, **options) -> dict[str, int]:
    return dict(listing(folder, ENDINGS, **options).passed_over.counts)


def test_files_come_with_their_places_in_order_of_their_names(tmp_path):
    write(tmp_path, "b.png", "a.JPG", "sub/deep/c.png", "sub/a.png", "notes.txt", "README", "sub/d.tif")
    held = listing(tmp_path, ENDINGS)
    assert {name: str(path) for name, path in held.files.items()} == {
        name: str(tmp_path / name) for name in ("a.JPG", "b.png", "sub/a.png", "sub/deep/c.png")
    }
    assert list(held.files) == sorted(held.files)
    assert list(held.others) == ["README", "notes.txt", "sub/d.tif"] and not held.passed_over
    assert held.everything_passed_over().lines() == [
        f"1 that end in .tif, such as {tmp_path}/sub/d.tif", f"1 that end in .txt, such as {tmp_path}/notes.txt",
        f"1 without an ending, such as {tmp_path}/README",
    ]  # fmt: skip


def test_what_systems_leave_behind_is_counted_and_its_first_named(tmp_path):
    write(
        tmp_path, "IMG_0.jpg", "@eaDir/IMG_0.jpg/SYNOPHOTO_THUMB_XL.jpg", "sub/@eaDir/b.jpg", "__MACOSX/._IMG_0.jpg",
        ".thumbnails/a.png", "._IMG_0.jpg", ".DS_Store", "Thumbs.db", "#recycle/c.jpg", "sub/$RECYCLE.BIN/d.png",
    )  # fmt: skip
    assert found(tmp_path) == ["IMG_0.jpg"]
    held = listing(tmp_path, ENDINGS).passed_over
    assert held.counts == {folders.SYSTEM: 6, folders.HIDDEN: 3}
    assert held.first == {folders.SYSTEM: f"{tmp_path}/#recycle", folders.HIDDEN: f"{tmp_path}/.DS_Store"}
    assert not held.lost


def test_a_folder_that_is_named_like_an_image_is_a_folder(tmp_path):
    write(tmp_path, "a.jpg/b.png", "a.jpg/c.jpg/d.jpg", "empty.png/notes.txt")
    assert found(tmp_path) == ["a.jpg/b.png", "a.jpg/c.jpg/d.jpg"]


def test_links_are_followed_and_none_leads_back(tmp_path):
    inside, elsewhere = write(tmp_path / "in", "a.png", "sub/b.png"), write(tmp_path / "out", "c.png", "deep/d.png")
    (inside / "file.png").symlink_to(elsewhere / "c.png")
    (inside / "more").symlink_to(elsewhere)
    for name, target in {"self": inside, "sub/up": tmp_path, "again": inside / "sub", "root": "/"}.items():
        (inside / name).symlink_to(target)
    (elsewhere / "back").symlink_to(inside)
    (elsewhere / "deep" / "back").symlink_to(elsewhere)
    (elsewhere / "above").symlink_to(tmp_path)
    assert found(inside) == ["a.png", "file.png", "more/c.png", "more/deep/d.png", "sub/b.png"]
    assert reasons(inside) == {folders.SEARCHED: 7}
    (tmp_path / "link").symlink_to(inside)
    assert found(tmp_path / "link") == found(inside)


def test_links_to_nothing_and_what_is_no_file_are_counted(tmp_path):
    write(tmp_path, "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        held = listing(tmp_path, ENDINGS)
    assert list(held.files) == ["a.png"]
    assert held.passed_over.counts == {folders.NOWHERE: 2, folders.NO_FILE: 2} and held.passed_over.lost == 2


def test_a_name_that_is_not_utf8_is_named_so_that_it_can_be_printed(tmp_path):
    write(tmp_path, "a.png")
    (folder := tmp_path / "sub").mkdir()
    write(os.fsencode(folder).decode(), os.fsdecode(b"stra\xdfe.png"), os.fsdecode(b"n\xe4chte/b.png"))
    held = listing(tmp_path, ENDINGS)
    assert list(held.files) == ["a.png"]
    assert held.passed_over.counts == {folders.NOT_UTF8: 2} and held.passed_over.lost == 2
    line = str(held.passed_over)
    assert line.isascii() and r"sub/n\xe4chte" in line and "rename" in line


def test_two_unicode_forms_of_a_name_are_one_name(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Straße bei Nürnberg.png") for form in ("NFC", "NFD"))
    write(tmp_path, apart)
    if os.listdir(tmp_path) != [apart] or (tmp_path / composed).exists():
        pytest.skip("this file system knows one Unicode form alone")
    held = listing(tmp_path, ENDINGS)
    assert list(held.files) == [composed] and str(held.files[composed]) == str(tmp_path / apart)
    write(tmp_path, composed)
    held = listing(tmp_path, ENDINGS)
    assert list(held.files) == [composed] and held.passed_over.counts == {folders.TWIN: 1}


def test_folders_that_are_not_entered_are_not_counted(tmp_path):
    write(tmp_path, "a.png", "day/b.png", "day/deep/c.png", "night/d.png", "night/.e.png")
    asked = []
    held = listing(tmp_path, ENDINGS, enter=lambda below: asked.append(below) or below.startswith("day"))
    assert list(held.files) == ["a.png", "day/b.png", "day/deep/c.png"] and not held.passed_over
    assert asked == ["day", "night", "day/deep"]


def test_closed_folders_are_left_alone_and_those_that_nobody_may_list_are_counted(tmp_path, monkeypatch):
    write(tmp_path, "a.png", "out/b.png", "secret/c.png")
    real = os.scandir

    def scandir(path):  # tests may run as root, who may list everything
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    held = listing(tmp_path, ENDINGS, closed=[str(tmp_path / "out")])
    assert list(held.files) == ["a.png"]
    assert held.passed_over.lines() == [
        f"1 {folders.CLOSED}, such as {tmp_path}/secret (Permission denied)"
    ] and held.passed_over.lost  # fmt: skip
    with pytest.raises(PermissionError, match="secret"):
        listing(tmp_path / "secret", ENDINGS)


def test_a_path_longer_than_the_system_allows_stops_nothing(tmp_path):
    write(tmp_path, "a.png")
    here, part = os.open(tmp_path, os.O_RDONLY), "d" * 250
    try:
        for _ in range(18):  # 4,500 letters: no single call takes such a path
            os.mkdir(part, dir_fd=here)
            deeper = os.open(part, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
        held = listing(tmp_path, ENDINGS)
    finally:
        os.close(here)
        shutil.rmtree(tmp_path / part)
    assert list(held.files) == ["a.png"] and held.passed_over.counts == {folders.CLOSED: 1}
    assert str(held.passed_over).endswith("(File name too long)")


def test_what_was_lost_is_said_first(tmp_path):
    passed = PassedOver()
    for reason, path in ((folders.HIDDEN, ".a"), (folders.HIDDEN, ".b"), (folders.NOT_UTF8, "c")):
        passed.add(reason, path)
    passed.add_other("d.txt")
    assert [line.split(" ")[0] + line.rpartition(" ")[2] for line in passed.lines()] == ["1c", "2.a", "1d.txt"]
    assert passed.lost == 1
