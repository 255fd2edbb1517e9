"""The requirements files and the package ask for the same things."""

import pathlib
import tomllib

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins(name: str) -> dict[tuple[str, str], str]:
    """{(package, marker): version} of a requirements file, without those that it includes."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    assert all([one.operator for one in wanted.specifier] == ["=="] for wanted in found), "each is pinned"
    return {key(wanted): next(iter(wanted.specifier)).version for wanted in found}


def key(wanted: Requirement) -> tuple[str, str]:
    extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
    return wanted.name.lower().replace("_", "-") + extras, str(wanted.marker or "")


def lowest(texts: list[str]) -> dict[tuple[str, str], str]:
    """{(package, marker): lowest version} of what the package asks for."""
    found = [Requirement(text) for text in texts]
    return {key(one): next(part.version for part in one.specifier if part.operator == ">=") for one in found}


@pytest.mark.parametrize(
    ("file", "texts"),
    [
        ("requirements.txt", [*PROJECT["dependencies"], *EXTRAS["train"], *EXTRAS["report"], *EXTRAS["video"]]),
        ("requirements-gpu.txt", EXTRAS["gpu"]),
        ("requirements-tpu.txt", EXTRAS["tpu"]),
    ],
)
def test_the_package_asks_for_what_the_requirements_pin_and_for_nothing_older(file, texts):
    assert lowest(texts) == pins(file)


def test_the_pins_are_versions_that_the_package_allows():
    wanted = {key(one): one for text in PROJECT["dependencies"] for one in [Requirement(text)]}
    for name, version in pins("requirements.txt").items():
        assert name not in wanted or wanted[name].specifier.contains(version), name


def test_torch_is_the_one_that_the_tests_compare_with():
    assert lowest(EXTRAS["torch"]).items() <= pins("requirements-dev.txt").items()


def test_all_extras_of_the_requirements_are_one():
    [everything] = map(Requirement, EXTRAS["all"])
    assert everything.name == PROJECT["name"] and everything.extras == {"train", "report", "video"}
