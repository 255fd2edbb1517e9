"""Folders and files that the program writes to."""

import errno

import pytest
from etils import epath

from proda_jax.files import check_writable


def test_a_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "new" / "run", "--workdir")
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_a_folder_below_a_file_is_refused_by_the_setting_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=rf"--workdir = {folder} cannot be written to \(.+\): name another folder"):
            check_writable(folder, "--workdir")


def test_a_disk_that_may_only_be_read_is_refused(tmp_path, monkeypatch):
    def refuse(path, contents):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", refuse)
    with pytest.raises(ValueError, match=r"cannot be written to \(Read-only file system\)"):
        check_writable(tmp_path, "--workdir")
