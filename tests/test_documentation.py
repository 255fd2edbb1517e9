"""The documentation names what is there."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def test_every_test_that_the_documentation_names_is_there():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text())
    assert len(named) > 50
    for file, test in named:
        assert re.search(rf"^def {test}\w*\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), (file, test)
