"""Whether every pin has a wheel, for each Python and platform: asks pip's resolver, which needs the network.

    python -m benchmarks.wheels

Nothing is installed. Markers are evaluated here, as pip evaluates them for the Python that it runs on. `promise`, which
TFDS needs, is a source package of pure Python: a wheel of it is made first, as pip does.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

from absl import app, flags
from packaging.requirements import Requirement

from proda_jax.system import paths

_FILES = flags.DEFINE_list("files", ["requirements.txt"], "Requirements files whose pins are looked for.")

ROOT = pathlib.Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LINUX = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
MACOS = tuple(f"macosx_{version}_0" for version in (15, 14, 13, 12, 11))
PLATFORMS = {  # beginnings of pip's names for it, and what markers are evaluated with
    "Linux x86-64": (LINUX, "linux", "x86_64"),
    "Linux aarch64": (LINUX, "linux", "aarch64"),
    "macOS arm64": (MACOS, "darwin", "arm64"),
}
SOURCE_ONLY = ("promise",)
PIP = (sys.executable, "-m", "pip")


def pins(python: str, system: str, machine: str) -> list[str]:
    """The requirements that count for a Python and a platform, without their markers."""
    where = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": system,
             "platform_machine": machine, "platform_system": system.capitalize()}  # fmt: skip
    found = []
    for file in _FILES.value:
        for line in (ROOT / file).read_text().splitlines():
            line = line.split("#")[0].strip()
            if line and not line.startswith("-"):
                wanted = Requirement(line)
                if wanted.marker is None or wanted.marker.evaluate(where):
                    wanted.marker = None
                    found.append(str(wanted))
    return found


def resolved(python: str, platforms: list[str], wanted: list[str], built: str) -> str:
    """'' where pip finds wheels of everything, also of what the pins need; otherwise the first that there is none of.

    Args:
      python: its version.
      platforms: pip's names of what wheels may be for.
      wanted: requirements.
      built: folder with wheels of `SOURCE_ONLY`.
    """
    with tempfile.TemporaryDirectory() as target:
        command = [*PIP, "install", "--dry-run", "--ignore-installed", "--quiet", "--target", target]
        command += ["--find-links", built, "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
        command += [f"--platform={name}" for name in platforms]
        done = subprocess.run([*command, *wanted], capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    named = re.search(r"No matching distribution found for (\S+)", done.stderr)
    if named is None:
        sys.exit(done.stderr)
    return named[1]


def main(_: list[str]) -> None:
    """Prints the table."""
    print(f"| Python | {' | '.join(PLATFORMS)} |\n|{'---|' * (len(PLATFORMS) + 1)}")
    missing = set()
    with tempfile.TemporaryDirectory() as built:
        subprocess.run([*PIP, "wheel", "--quiet", "--no-deps", "-w", built, *SOURCE_ONLY], check=True)
        for python in PYTHONS:
            cells = []
            for kinds, system, machine in PLATFORMS.values():
                wanted = pins(python, system, machine)
                problem = resolved(python, [f"{kind}_{machine}" for kind in kinds], wanted, built)
                some = "" if any(re.match(r"tensorflow(-cpu)?==", pin) for pin in wanted) else ", without TensorFlow"
                cells.append(f"no wheel of {problem}" if problem else f"all {len(wanted)}{some}")
                missing |= {problem} - {""}
            print(f"| {python} | {' | '.join(cells)} |", flush=True)
    if missing:
        sys.exit(f"wheels are missing: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    app.run(main, flags_parser=paths.parse)
