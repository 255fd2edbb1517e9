"""Folders and files that the program writes to."""

import errno

import pytest
from etils import epath

from proda_jax.system.files import NotWritten, check_writable, write_atomically


def test_a_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "new" / "run", "--workdir")
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_a_folder_below_a_file_is_refused_by_the_setting_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=rf"--workdir = {folder} cannot be written to \(.+\): name another folder"):
            check_writable(folder, "--workdir")


@pytest.mark.smoke("system")
def test_a_file_that_cannot_be_written_leaves_the_older_one_and_no_half(tmp_path, monkeypatch):
    path, write = tmp_path / "file", type(epath.Path(tmp_path)).write_bytes
    write_atomically(path, "older")

    def full(unfinished, contents):
        write(unfinished, contents[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", full)
    with pytest.raises(NotWritten, match=rf"{path} could not be written \(No space left on device\).*same command"):
        write_atomically(path, "newer")
    assert {file: file.read_text() for file in tmp_path.iterdir()} == {path: "older"}


def test_a_disk_that_may_only_be_read_is_refused(tmp_path, monkeypatch):
    def refuse(path, contents):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", refuse)
    with pytest.raises(ValueError, match=r"cannot be written to \(Read-only file system\)"):
        check_writable(tmp_path, "--workdir")
