"""The documentation names what is there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_every_test_that_the_documentation_names_is_there():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text())
    assert len(named) > 50
    for file, test in named:
        (path,) = (ROOT / "tests").rglob(file)
        assert re.search(rf"^def {test}\w*\(", path.read_text(), re.MULTILINE), (file, test)


def test_every_function_that_the_method_names_is_in_its_file():
    """`file.py`: `one`, `two` after a link to the file; methods come with their class."""
    named = re.findall(r"\]\(\.\./([\w/]+\.py)\): ((?:`[\w.]+`(?:, )?)+)", (ROOT / "docs" / "method.md").read_text())
    assert len(named) > 30
    for file, names in named:
        text = (ROOT / file).read_text()
        for name in re.findall(r"`([\w.]+)`", names):
            *_, last = name.split(".")
            assert re.search(rf"^\s*(def|class) {last}\b", text, re.MULTILINE), (file, name)


def test_every_equation_has_a_function():
    rows = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", (ROOT / "docs" / "method.md").read_text(), re.MULTILINE)
    linked = {int(number) for number, where in rows if re.search(r"\.py\): `\w+`", where)}
    assert set(range(1, 13)) <= linked


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text()):
        assert "://" in target or (folder / target).exists(), target
