"""Every path that somebody gives is expanded once, whichever flag or setting holds it."""

import ast
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import ml_collections
import pytest

from proda_jax.system.paths import expand_settings, expanded

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


def test_the_home_folder_takes_the_place_of_a_tilde_at_the_beginning(home):
    for path, meant in {
        "~": home, "~/a/b.png": f"{home}/a/b.png", "~root/x": f"{os.path.expanduser('~root')}/x",
        "a/~/b": "a/~/b", "./~/b": "./~/b", "gs://bucket/~/x": "gs://bucket/~/x", "a~": "a~", "": "",
        "$HOME/x": "$HOME/x",        "~nobody_of_that_name.png": "~nobody_of_that_name.png",
    }.items():  # fmt: skip
        assert expanded(path) == meant
    assert expanded(pathlib.Path("~/x")) == f"{home}/x" and expanded(["a", "~/x"]) == ["a", f"{home}/x"]
    assert expanded((("~/x", 1), None)) == ((f"{home}/x", 1), None) and expanded(3.5) == 3.5


def test_a_folder_that_is_called_tilde_is_not_taken_for_the_home(home, tmp_path, monkeypatch):
    """Such as earlier versions made."""
    (tmp_path / "here" / "~" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert expanded("~/x") == f"{home}/x"


def test_a_home_that_nobody_has_is_refused():
    with pytest.raises(ValueError, match="~nobody_here/x: nobody called 'nobody_here' has a home folder"):
        expanded("~nobody_here/x")


def test_addresses_of_anything_but_buckets_are_refused():
    for address in ("https://x.y/a.pth", "rtsp://camera/1", "FILE:///a", "s3://bucket/a"):
        with pytest.raises(ValueError, match=f"{address}: files lie on .* disks or in Google's buckets .*: fetch"):
            expanded(address)
        with pytest.raises(ValueError, match=address):
            expanded(("a", address))
    assert expanded(("gs://bucket/a", "a/b: c", "C://x", "://", 3)) == ("gs://bucket/a", "a/b: c", "C://x", "://", 3)


def test_settings_are_expanded_in_all_sections(home):
    c = ml_collections.ConfigDict({"a": "~/a", "b": {"c": {"d": "~/d", "e": 1}}, "f": ("~/f", "g"), "h": None}).lock()
    expand_settings(c)
    assert c.to_dict() == {
        "a": f"{home}/a", "b": {"c": {"d": f"{home}/d", "e": 1}}, "f": (f"{home}/f", "g"), "h": None
    }  # fmt: skip


PARSING = """
    import json, sys
    from absl import flags
    import ml_collections
    import {module} as module
    getattr(module, "define_flags", lambda: None)()
    from proda_jax.configs import custom
    from proda_jax.system import paths

    def texts(section, name):
        for key in section:
            if isinstance(section[key], ml_collections.ConfigDict):
                yield from texts(section[key], f"{{name}}.{{key}}")
            elif section.get_type(key) is str:
                yield f"{{name}}.{{key}}"

    defined = {{flag.name: flag.flag_type() for flag in flags.FLAGS.get_flags_for_module(module.__name__)}}
    given = {{name: "~/x" for name, kind in defined.items() if kind == "string"}}
    given |= {{name: "a,~/x" for name, kind in defined.items() if kind == "comma separated list of strings"}}
    settings = {{}}
    if "config" in defined:
        settings = {{name: "~/x" for name in texts(custom.get_config(), "config")}}
        given["config"] = "~/custom.py"
    argv = ["program", "~/more", *(f"--{{name}}={{value}}" for name, value in (given | settings).items())]
    sys.argv = argv
    rest = getattr(module, "parse", paths.parse)(argv)
    values = {{name: flags.FLAGS[name].value for name in given if name != "config"}}
    config = flags.FLAGS.config.to_dict() if settings else {{}}
    print(json.dumps([rest, values, config, list(settings)], default=str))
    """


@pytest.mark.parametrize("module", ["proda_jax.cli.flags", "data_prep.prepare", "data_prep.convert_weights"])
def test_every_flag_and_setting_that_is_a_text_is_expanded(module, home):
    """All that could hold a path, as absl and ml_collections list them; in the configuration's own file, too."""
    (pathlib.Path(home) / "custom.py").write_text((ROOT / "configs" / "custom.py").read_text() + textwrap.dedent("""

        own = get_config
        def get_config():
            c = own()
            c.data.unlock()
            c.data.several = ("~/y", "~/z")
            return c
        """))  # fmt: skip
    command = [sys.executable, "-c", textwrap.dedent(PARSING).format(module=module)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    rest, values, config, settings = json.loads(result.stdout.splitlines()[-1])
    assert rest == ["program", f"{home}/more"]
    assert "~" not in json.dumps([values, config]) and len(values) >= 2
    assert all(value in (f"{home}/x", ["a", f"{home}/x"]) for value in values.values())
    if settings:
        held = json.dumps(config)
        assert held.count(f"{home}/x") == len(settings) > 20 and held.count(f"{home}/y") == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["main.py", "--mode=report", "--workdir=~/run"], "{home}/run"),
        (["-m", "data_prep.convert_weights", "--input=~/a.pth", "--output=~/b.npz"], "{home}/a.pth"),
        (["main.py", "--mode=status", "--workdir=~nobody_here/run"], "error: ~nobody_here/run: nobody called"),
        (["main.py", "--mode=predict", "--input=https://x.y/z.png"], "error: https://x.y/z.png: files lie on"),
        (["main.py", "--config=custom", "--config.data.target.images=http://x/y.zip"], "error: http://x/y.zip: files"),
        (["main.py", "--mode=export", "--license=https://x.y/z"], "--mode=export needs --output"),
    ],
)  # fmt: skip
def test_the_commands_use_what_was_expanded(command, message, home, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    (tmp_path / "here").mkdir()
    command = [str(ROOT / part) if part == "main.py" else part for part in command]
    result = subprocess.run(
        [sys.executable, *command], cwd=tmp_path / "here", env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1 and message.format(home=home) in result.stderr, result.stderr[-3000:]
    assert not list((tmp_path / "here").iterdir())  # no folder that is called ~


def test_every_command_parses_its_flags_so():
    folders, commands = ("data_prep", "benchmarks", "proda_jax"), []
    for path in (*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "app.run":
                commands.append(path)
                assert [ast.unparse(word.value) for word in node.keywords] in (["parse"], ["paths.parse"]), path
    assert len(commands) > 5
