"""The rooms of the package: who may import whom, and that each file lies in one.

A room imports from rooms below it and from itself. Imports inside of functions count like all others, and so does what
lies in `configs/`, `data_prep/` and beside the package.
"""

import ast
import functools
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Room: the rooms that it may import from. From the ground floor up: no room may name one that stands after it.
ROOMS = {
    "configs": (),
    "system": ("configs",),
    "data": ("system",),
    "models": ("system",),
    "adaptation": ("system", "data", "models"),
    "report": ("system", "data", "adaptation"),
    "data_prep": ("system", "data", "models"),
    "run": ("configs", "system", "data", "models", "adaptation", "report", "data_prep"),
    "inference": ("configs", "system", "data", "models", "adaptation", "run"),
    "study": ("system", "adaptation", "report", "run"),
    "benchmarks": ("configs", "system", "data", "models", "adaptation", "report", "data_prep", "run", "inference"),
    "cli": ("system", "report", "run", "inference", "study"),
}
OUTSIDE = ("configs", "data_prep", "benchmarks")  # folders of their own; the rest lie in proda_jax/


def folder(room: str) -> pathlib.Path:
    return ROOT / room if room in OUTSIDE else ROOT / "proda_jax" / room


def files(room: str) -> list[pathlib.Path]:
    return sorted(folder(room).rglob("*.py"))


def module(path: pathlib.Path) -> str:
    """The name that a file is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("proda_jax", *parts) if parts[0] in ("configs", "data_prep") else parts
    return ".".join(parts).removesuffix(".__init__")


@functools.cache
def modules() -> dict[str, pathlib.Path]:
    return {module(path): path for room in ROOMS for path in files(room)}


def room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "proda_jax" else parts[0]


@functools.cache
def imports(path: pathlib.Path) -> frozenset[str]:
    """Modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in map(to_module, found) if name)


def to_module(name: str) -> str | None:
    """The module of ours that an imported name is, or lies in."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name or None


def edges() -> Iterator[tuple[str, str]]:
    for name, path in modules().items():
        for other in imports(path) - {name}:
            yield name, other


def test_the_table_goes_from_the_ground_floor_up():
    rooms = list(ROOMS)
    for room, below in ROOMS.items():
        assert set(below) <= set(rooms[: rooms.index(room)]), room


def test_rooms_import_from_rooms_below_them_alone():
    wrong = [
        f"{modules()[name].relative_to(ROOT)} imports {modules()[other].relative_to(ROOT)}"
        for name, other in edges()
        if room_of(other) != room_of(name) and room_of(other) not in ROOMS[room_of(name)]
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_no_row_of_the_table_allows_more_than_there_is():
    there = {(room_of(name), room_of(other)) for name, other in edges()}
    unused = [f"{room} imports nothing from {other}" for room, below in ROOMS.items() for other in below
              if (room, other) not in there]  # fmt: skip
    assert not unused, unused


def test_no_files_import_each_other_in_a_circle():
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, "a circle: " + " -> ".join((*way[way.index(name) :], name))
        if name in done:
            return
        for other in sorted(imports(modules()[name]) - {name}):
            visit(other, (*way, name))
        done.add(name)

    for name in modules():
        visit(name, ())


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_says_on_its_door_what_it_is(room):
    doors = [path / "__init__.py" for path in (folder(room), *folder(room).rglob("*/")) if any(path.glob("*.py"))]
    for door in doors:
        assert ast.get_docstring(ast.parse(door.read_text())), f"{door} has no sentence"


def smoke_tests() -> Iterator[str]:
    """The rooms that marks name, of tests which are among the first to run."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.smoke":
                yield from (ast.literal_eval(room) for room in node.args)


def test_each_room_has_a_test_in_the_run_of_a_minute():
    assert set(smoke_tests()) == set(ROOMS)


def test_nothing_stands_outside_of_the_rooms():
    assert [path.name for path in (ROOT / "proda_jax").glob("*.py")] == ["__init__.py"]
    inside = {path.name for path in (ROOT / "proda_jax").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert inside <= set(ROOMS)
