"""Each flag of the command is known to the modes that read it: no other one takes it without a word."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
OF_ALL = {"config", "workdir", "mode", "distributed", "coordinator", "hosts", "host"}


def test_each_flag_is_of_modes_and_its_help_names_them():
    """Read from the source, since flags are defined once in a process."""
    tree = ast.parse((ROOT / "proda_jax" / "cli" / "flags.py").read_text())
    helps, modes = {}, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("DEFINE_"):
            helps[node.args[0].value] = " ".join(a.value for a in node.args if isinstance(a, ast.Constant) and a.value)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODES":
            modes = eval(compile(ast.Expression(node.value), "flags.py", "eval"))
    assert helps.keys() - OF_ALL == modes.keys()
    for name, those in modes.items():
        said = set(re.findall(r"\b(train|evaluate|status|predict|export|report|study)\b", helps[name]))
        assert said >= set(those), name
