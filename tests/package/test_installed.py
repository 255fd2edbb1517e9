"""The package as pip installs it: a wheel is built, installed in an environment of its own, and used from elsewhere."""

import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile

import environments
import jax
import jax.export
import numpy as np
import pytest
from PIL import Image
from quick import QUICK

from proda_jax.inference.export import STABLEHLO
from proda_jax.models import weights

ROOT = pathlib.Path(__file__).parents[2]
STAGES = ("source", "warmup", "stage1", "stage2", "stage3")
SMALL = {  # the demo with a network that compiles in seconds
    "model.depths": (1, 1), "model.width": 8, "model.dilations": (2,), "model.head_channels": 32,
    "model.feature_channels": 32, "views.crop_size": (32, 64), "snapshots.features": 0,
    "stage1.prototype_min_pixels": 1, "stage1.prototype_init_min_pixels": 1,
    "warmup.discriminator_channels": (8, 16, 16, 32),
} | {f"{stage}.steps": 2 for stage in STAGES}  # fmt: skip
TENSORFLOW = ("tensorflow", "tensorflow-cpu", "keras", "tensorboard")
CORE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy with the links of the checkout, since building leaves files behind."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("proda_jax", "configs", "data_prep"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder, source)
    [built] = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of the commands of an environment that has all that is installed here."""
    return install(wheel, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory):
    """As `installed`, of an environment that has nothing but what the package asks for without extras."""
    return install(wheel, tmp_path_factory.mktemp("core"), environments.all_but(CORE) - {"pip"})


def install(wheel: pathlib.Path, folder: pathlib.Path, without=()) -> pathlib.Path:
    python = environments.make(folder, without)
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    return python.parent


@pytest.fixture(scope="module", autouse=True)
def single_device(tmp_path_factory):
    """For commands: one device, programs compiled quickly, and once for both environments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", QUICK)
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


def run(*command, cwd=None, fails: bool = False) -> subprocess.CompletedProcess:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=3000)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done


def test_a_wheel_holds_each_module_and_what_pages_are_made_of(wheel):
    homes = {"proda_jax": ROOT, "configs": ROOT / "proda_jax", "data_prep": ROOT / "proda_jax"}
    expected = {
        (home / name).joinpath(path.relative_to(ROOT / name)).relative_to(ROOT)
        for name, home in homes.items()
        for path in (ROOT / name).rglob("*.*")
        if path.suffix in (".py", ".html", ".css") and not path.is_symlink()
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {pathlib.Path(name) for name in archive.namelist() if ".dist-info" not in name}
        links = [info for info in archive.infolist() if info.external_attr >> 28 == 0xA]
    assert held == expected and not links


def test_commands_work_from_another_folder_and_import_no_jax_to_refuse(installed, tmp_path):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    script = "import proda_jax, importlib.metadata as m; print(proda_jax.__file__, m.version('proda-jax'))"
    assert run(installed / "python", "-c", script, cwd=tmp_path).stdout.split() == [
        str(next(installed.parent.rglob("site-packages/proda_jax/__init__.py"))), version
    ]  # fmt: skip
    shown = run(installed / "proda", "--help", cwd=tmp_path, fails=True).stdout
    assert shown.startswith("ProDA in JAX: `proda --config=demo") and "--workdir:" in shown
    assert "--raw_dir:" in run(installed / "proda-prepare", "--help", cwd=tmp_path, fails=True).stdout
    refused = run(installed / "proda", "--config=dmeo", f"--workdir={tmp_path}", cwd=tmp_path, fails=True)
    assert "did you mean 'demo'?" in refused.stderr
    imported = run(installed / "python", "-X", "importtime", installed / "proda", "--help", cwd=tmp_path, fails=True)
    assert " proda_jax.cli" in imported.stderr and " jax" not in imported.stderr and "tensorflow" not in imported.stderr


@pytest.mark.parametrize("statement", ["from configs import base", "from proda_jax.configs import base"])
def test_a_configuration_of_ones_own_reads_the_shipped_settings_by_either_name(installed, tmp_path, statement):
    text = (ROOT / "configs" / "custom.py").read_text().replace("from proda_jax.configs import base", statement)
    (tmp_path / "mine.py").write_text(text)
    assert statement in text
    for command in ([installed / "proda"], [sys.executable, ROOT / "main.py"]):
        refused = run(*command, "--config=mine.py", "--workdir=mine.py/work", cwd=tmp_path, fails=True)
        assert "config.model.imagenet_weights = None" in refused.stderr.splitlines()[-1], refused.stderr


def test_without_extras_stablehlo_is_written_and_read(core, tmp_path):
    """JAX itself imports some packages only once they are used."""
    script = "import jax, jax.export, numpy as np; from proda_jax.inference import export, segmenter\n"
    script += "exported = jax.export.export(jax.jit(lambda x: x + 1))(np.zeros(3)).serialize()\n"
    script += "print(jax.export.deserialize(exported).call(np.arange(3.)).tolist())"
    assert run(core / "python", "-c", script, cwd=tmp_path).stdout.split("\n")[-2] == "[1.0, 2.0, 3.0]"


def use(commands: pathlib.Path, folder: pathlib.Path) -> str:
    """Prepares, trains two steps a stage, evaluates, predicts, loads, converts and exports; what training printed."""
    data, workdir = folder / "data", folder / "work"
    run(commands / "proda-prepare", "--dataset=demo", f"--data_dir={data}", cwd=folder)
    small = [f"--config.{name}={value}" for name, value in SMALL.items()]
    flags = ["--config=demo:scratch", f"--workdir={workdir}", f"--config.data.data_dir={data}", *small]
    trained = run(commands / "proda", *flags, cwd=folder)
    assert "stage3" in trained.stdout and f"results: {workdir / 'results.json'}" in trained.stdout
    assert "road" in run(commands / "proda", "--mode=evaluate", *flags, cwd=folder).stdout
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 192, 3), np.uint8)).save(folder / "photo.png")
    run(commands / "proda", "--mode=predict", f"--workdir={workdir}", "--input=photo.png", "--output=out", cwd=folder)
    script = "from proda_jax import load; from PIL import Image; import sys\n"
    script += "Image.fromarray(load(sys.argv[1])('photo.png')).save('loaded.png')"
    run(commands / "python", "-c", script, workdir, cwd=folder)
    [ids] = [path for path in (folder / "out").rglob("*.png") if "photo" in path.name and path.parent.name == "ids"]
    labels = np.asarray(Image.open(folder / "loaded.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(ids)), labels)
    run(commands / "proda-convert-weights", f"--input={workdir / 'stage3'}", "--output=net.npz", cwd=folder)
    converted, stage3 = (weights.load(path).arrays for path in (folder / "net.npz", workdir / "stage3"))
    jax.tree.map(np.testing.assert_array_equal, converted, stage3)
    export = ["--mode=export", f"--workdir={workdir}", "--output=exported", "--format=stablehlo"]
    run(commands / "proda", *export, cwd=folder)
    exported = jax.export.deserialize((folder / "exported" / STABLEHLO).read_bytes())
    photo = np.asarray(Image.open(folder / "photo.png"))
    np.testing.assert_array_equal(exported.call(photo[None])[0], labels)
    return trained.stdout + trained.stderr


@pytest.mark.slow
def test_everything_works_from_another_folder(installed, tmp_path):
    printed = use(installed, tmp_path)
    assert f"report: {tmp_path / 'work' / 'report' / 'index.html'}" in printed and "Pillow" not in printed


@pytest.mark.slow
def test_without_extras_a_network_is_used(installed, core, tmp_path):
    """What docs/install.md promises of the core: status, scores, predictions and StableHLO."""
    use(installed, tmp_path)
    for mode, *flags in (
        ("status",), ("evaluate",), ("predict", "--input=photo.png", "--output=predicted"),
        ("export", "--format=stablehlo", "--output=core"), ("export", "--format=pretrained", "--output=shared"),
    ):  # fmt: skip
        run(core / "proda", f"--mode={mode}", "--workdir=work", *flags, cwd=tmp_path)
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "predicted" / "ids" / "photo.png")),
        np.asarray(Image.open(tmp_path / "loaded.png")),
    )
    written = [(tmp_path / folder / STABLEHLO).read_bytes() for folder in ("core", "exported")]
    photo = np.asarray(Image.open(tmp_path / "photo.png"))[None]
    np.testing.assert_array_equal(*(jax.export.deserialize(one).call(photo) for one in written))


@pytest.mark.slow
def test_everything_works_where_there_is_no_tensorflow(wheel, tmp_path_factory):
    commands = install(wheel, tmp_path_factory.mktemp("without"), TENSORFLOW)
    printed = use(commands, tmp_path_factory.mktemp("folder"))
    assert printed.count("TensorFlow cannot be imported: images are decoded with Pillow and held in memory") == 1
    assert printed.count("no curves for TensorBoard") == 1
