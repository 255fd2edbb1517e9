"""Counts lines by room: before the rooms were laid out, and now.

    python -m benchmarks.lines

A file of before counts for the room into which the commit that laid the rooms out moved it, by git's own detection of
renames. Code is what is left without blank lines, comments and docstrings. The history must be there: a shallow clone
lacks it. Prints a table for docs/architecture.md.
"""

import ast
import io
import pathlib
import subprocess
import tarfile
import tokenize

from absl import app, flags

from proda_jax.system import paths

ROOT = pathlib.Path(__file__).parents[1]
TOP = ("configs", "data_prep", "benchmarks")  # rooms that are, or were, folders of their own
_NOT_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)

_LAID_OUT = flags.DEFINE_string("laid_out", "be29230", "Commit that laid the rooms out; 'before' is its parent.")
_AFTER = flags.DEFINE_string("after", "HEAD", "Commit of now.")


def git(*arguments: str, repository: pathlib.Path = ROOT) -> bytes:
    """What git prints; raises `subprocess.CalledProcessError` where it cannot do so."""
    return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, check=True).stdout


def sources(commit: str, repository: pathlib.Path) -> dict[str, str]:
    """The Python files of a commit but for tests and what stands outside of all rooms, by path."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit, repository=repository))) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".py") and room(member.name):
                found[member.name] = archive.extractfile(member).read().decode()
    return found


def room(path: str) -> str:
    """The room that a file lies in; 'cli' for the command itself, 'proda_jax' beside all rooms, '' for other files."""
    first, *rest = path.split("/")
    if path == "main.py":
        return "cli"
    if first in TOP:
        return first
    return "" if first != "proda_jax" else rest[0] if len(rest) > 1 else first


def moved(laid_out: str, repository: pathlib.Path) -> dict[str, str]:
    """Where files went in a commit, by where they were."""
    lines = git("diff", "-M", "--name-status", "--diff-filter=R", f"{laid_out}^", laid_out, repository=repository)
    return dict(line.split("\t")[1:] for line in lines.decode().splitlines())


def counted(text: str) -> tuple[int, int]:
    """Lines of code, and all lines, of a Python file."""
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in _NOT_CODE]
    found = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if ast.get_docstring(node, clean=False) is not None:
                found -= set(range(first.lineno, first.end_lineno + 1))
    return len(found), len(text.splitlines())


def by_room(files: dict[str, str], to: dict[str, str]) -> dict[str, tuple[int, int, int]]:
    """Files, lines of code and all lines of each room; `to` says where files went that lie elsewhere by now."""
    found: dict[str, tuple[int, int, int]] = {}
    for path, text in files.items():
        name = room(to.get(path, path))
        found[name] = tuple(map(sum, zip(found.get(name, (0, 0, 0)), (1, *counted(text)), strict=True)))
    return found


def table(laid_out: str, after: str, repository: pathlib.Path = ROOT) -> str:
    """The table in Markdown, the largest room of now first."""
    before = by_room(sources(f"{laid_out}^", repository), moved(laid_out, repository))
    now = by_room(sources(after, repository), {})
    rooms = sorted(before | now, key=lambda name: now.get(name, (0, 0, 0))[1], reverse=True)
    rows = [(f"`{name}`", before.get(name, (0, 0, 0)), now.get(name, (0, 0, 0))) for name in rooms]
    rows.append(("all", *(tuple(map(sum, zip(*found.values(), strict=True))) for found in (before, now))))
    first, last = (git("rev-parse", "--short=7", commit, repository=repository).decode().strip()
                   for commit in (f"{laid_out}^", after))  # fmt: skip
    lines = [f"| room | files, {first} | {last} | code, {first} | {last} | all lines, {first} | {last} |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, *counts in rows:
        cells = [f"{count[i]:,}" for i in range(3) for count in counts]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(_: list[str]) -> None:
    print(table(_LAID_OUT.value, _AFTER.value))


if __name__ == "__main__":
    app.run(main, flags_parser=paths.parse)
