"""Lines of code by room: what counts as code, and where files of before belong, in a history made for it."""

import pathlib
import subprocess

import pytest

from benchmarks import lines

SOURCE = '''\
"""A module,
of two lines."""

import os  # with a comment


# a comment alone
class Name:
    """What it is."""

    text = """not a
    docstring"""

    def method(
        self,
    ):
        return os.path
'''


def test_code_is_without_blank_lines_comments_and_docstrings():
    assert lines.counted(SOURCE) == (8, 17)
    assert lines.counted(SOURCE.replace('"""A module,\nof two lines."""', "1")) == (9, 16)


@pytest.fixture
def repository(tmp_path) -> pathlib.Path:
    """Two files beside each other; then each goes into a room; then one grows, and a third is added."""

    def commit(message: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
        subprocess.run(["git", *who, "commit", "-qm", message], cwd=tmp_path, check=True)

    def write(name: str, values: int) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{path.stem}_{i} = {i}\n" for i in range(values)))

    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    write("proda_jax/files.py", 30)
    write("proda_jax/losses.py", 20)
    write("tests/test_files.py", 99)
    commit("before")
    for name, to in (("files", "system"), ("losses", "adaptation")):
        (tmp_path / "proda_jax" / to).mkdir()
        (tmp_path / "proda_jax" / f"{name}.py").rename(tmp_path / "proda_jax" / to / f"{name}.py")
    commit("laid out")
    write("proda_jax/system/files.py", 1300)
    write("proda_jax/system/hosts.py", 5)
    commit("now")
    return tmp_path


def test_files_of_before_count_for_the_room_that_they_moved_into(repository):
    found = lines.table("HEAD^", "HEAD", repository).splitlines()
    assert found[2:] == [
        "| `system` | 1 | 2 | 30 | 1,305 | 30 | 1,305 |",
        "| `adaptation` | 1 | 1 | 20 | 20 | 20 | 20 |",
        "| all | 2 | 3 | 50 | 1,325 | 50 | 1,325 |",
    ]
