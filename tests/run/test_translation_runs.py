"""A stage that translates the source writes it once, goes on with what is missing, and others learn from it."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from survival import At, checkpoint_of, checkpoints_in, interrupt
from tiny import block_source, tiny_config, tiny_stage, tiny_variables

from proda_jax.adaptation.stages import build
from proda_jax.configs import base
from proda_jax.data.translations import Translations
from proda_jax.inference.loading import load
from proda_jax.models.translator import translated
from proda_jax.run import provenance, settings
from proda_jax.run.experiment import Experiment, card_of
from proda_jax.run.records import Metrics
from proda_jax.run.sources import Sources
from proda_jax.system.checkpoints import Checkpoints

HERE = pathlib.Path(__file__).parent
# as the run does in its own process, which the system ends where the second translation would get its name
KILLED = """
import os, pathlib, signal, sys
from proda_jax.data.translations import Translations
import test_translation_runs as these

write, started = Translations.write, []

def counted(self, name, values):
    started.append(name)
    if len(started) == 2:
        type(self.folder).replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    write(self, name, values)

Translations.write = counted
these.experiment_in(pathlib.Path(sys.argv[1])).prepared.translations("translation")
"""


def config_of():
    c = tiny_config()
    c.snapshots.images, c.save_every = 0, 1
    c.stages = ("source", "translation", "adapted")
    c.source = tiny_stage(base.supervised("random", 1))
    c.translation = base.translate("source", 2)
    c.translation.generator_channels, c.translation.generator_blocks = 4, 1
    c.translation.discriminator_channels = (4, 8)
    c.adapted = tiny_stage(base.supervised("source", 1), source_images="translation")
    return c


def experiment_in(workdir: pathlib.Path) -> Experiment:
    c = config_of()
    given = {"source": block_source(4, 0), "target": block_source(4, 1, labelled=False)}
    given["validation"] = block_source(2, 2)
    return Experiment(c, workdir, Sources(c, workdir, given), devices_used=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose source stage is a stand-in, and whose translation is complete."""
    workdir, c = tmp_path_factory.mktemp("translation"), config_of()
    settings.check(c)
    run = experiment_in(workdir)
    model = run.networks.model("source")
    with contextlib.closing(Checkpoints(workdir / "source" / "checkpoints")) as checkpoints:
        network = jax.tree.map(jnp.asarray, tiny_variables(model.clone(axis_name=None), 0))
        checkpoints.save_network(network, None, card_of(c, "source", model).as_json())
    entry = {"step": 0, "miou": 1.0}
    run.workdir.finish("source", {"name": "source", "steps": 0, "seconds": 1, "best": entry, "last": entry})
    provenance.remember(run.workdir.folder("source"), c, "source")
    run.complete("translation")
    run.prepared.translations("translation")
    return c, run, {"source": run.sources.open("source")}


def store_of(run) -> dict:
    folder = run.workdir.folder("translation") / "translated_source"
    return {path.name: path for path in folder.iterdir() if path.suffix == ".png"}


def test_translations_are_those_of_the_network_and_are_learnt_from_with_the_sources_labels(finished):
    c, run, given = finished
    lines = Metrics(run.workdir.folder("translation") / "metrics.jsonl", 2).entries
    terms = ("adversarial", "cycle", "identity", "semantic", "discriminator", "gradient_norm")
    assert len(lines) == 2 and all(line[term] > 0 for line in lines for term in terms)
    model = run.networks.model("translation").clone(axis_name=None)
    params, source = run.networks.variables("translation")["params"], given["source"]
    expected = np.asarray(jax.jit(lambda p, x: translated(model, p, x))(params, source.images[:1]))
    store, names = run.prepared.translations("translation"), source.names
    assert len(store_of(run)) == len(names)
    assert np.abs(store.read(names[0]).astype(int) - expected[0]).max() <= 1
    assert np.abs(store.read(names[0]).astype(int) - source.images[0]).max() > 20

    batch = next(run.batches("adapted", None, 0))
    plain = next(source.training_batches(2, seed=build.order_seed(c.seed, "adapted"), labels=True))
    np.testing.assert_array_equal(batch["source"]["label"], plain["label"])
    wanted = np.stack([store.read(names[record]) for record in plain["record"]])
    np.testing.assert_array_equal(batch["source"]["image"], wanted)
    held = run.prepared.labelled("adapted").to_memory(labels=True)
    np.testing.assert_array_equal(held.images[3], store.read(names[3]))
    np.testing.assert_array_equal(held.labels, source.labels)


def test_what_is_missing_or_damaged_is_made_again_and_nothing_else(finished):
    c, run, _ = finished
    files = sorted(store_of(run).values())
    before = {path: (path.read_bytes(), os.stat(path).st_mtime_ns) for path in files}
    files[0].unlink()
    contents = bytearray(before[files[1]][0])
    contents[len(contents) // 2] ^= 1
    files[1].write_bytes(contents)
    again = Experiment(c, run.workdir.path, run.sources, devices_used=1)
    again.prepared.translations("translation")
    for path in files:
        assert Translations.decode(path.read_bytes()).tobytes() == Translations.decode(before[path][0]).tobytes()
    assert [os.stat(path).st_mtime_ns == before[path][1] for path in files] == [False, False, True, True]


def copy_of(run, destination: pathlib.Path, *without: str) -> pathlib.Path:
    shutil.copytree(run.workdir.path, destination)
    for name in without:
        shutil.rmtree(destination / name)
    return destination


def test_translating_that_is_killed_goes_on_where_it_was_to_the_same_bytes(finished, tmp_path):
    """In the midst of a batch, and of a file."""
    _, run, _ = finished
    whole = {name: path.read_bytes() for name, path in store_of(run).items()}
    workdir = copy_of(run, tmp_path / "killed", "translation/translated_source")
    places = os.pathsep.join(map(str, (HERE, HERE.parent / "support", HERE.parents[1])))
    ended = subprocess.run([sys.executable, "-c", KILLED, workdir], env=os.environ | {"PYTHONPATH": places},
                           capture_output=True, text=True, timeout=600, check=False)  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    store = workdir / "translation" / "translated_source"
    (first,) = store.glob("*.png")
    assert len(list(store.glob("*.tmp"))) == 1 and first.read_bytes() == whole[first.name]
    before = first.stat().st_mtime_ns
    again = experiment_in(workdir)
    again.prepared.translations("translation")
    assert {name: path.read_bytes() for name, path in store_of(again).items()} == whole
    assert first.stat().st_mtime_ns == before


def test_training_of_a_translation_that_is_interrupted_ends_in_the_same_bits(finished, tmp_path):
    """Generators, discriminators, the pool of earlier translations and the optimizers' states."""
    c, run, _ = finished
    workdir = copy_of(run, tmp_path / "stopped", "translation")
    with pytest.raises(KeyboardInterrupt):
        Experiment(c, workdir, At(c, "translation", 2, interrupt), devices_used=1).complete("translation")
    assert checkpoints_in(workdir / "translation") == ["1"]
    experiment_in(workdir).complete("translation")
    assert checkpoint_of(workdir / "translation") == checkpoint_of(run.workdir.folder("translation"))


def test_other_settings_are_refused(finished):
    c, run, _ = finished
    c = c.copy_and_resolve_references()
    c.translation.window = (32, 64)
    other = Experiment(c, run.workdir.path, run.sources, devices_used=1)
    with pytest.raises(ValueError, match="holds translated images of another origin"):
        other.prepared.translations("translation")
    with pytest.raises(ValueError, match="config.translation.window was"):
        other.begin()


def test_nothing_is_predicted_with_it(finished):
    _, run, _ = finished
    with pytest.raises(ValueError, match="'translation' is translation, whose network labels nothing"):
        load(run.workdir.path, stage="translation")
    with pytest.raises(ValueError, match="'translation' is translation, whose network labels nothing"):
        run.evaluate("translation")
    row = next(line for line in run.table().splitlines() if line.startswith("translation"))
    assert row.split()[1] == "2" and row.split()[3:] == ["-"]


@pytest.mark.parametrize(("change", "message"), [
    ({"adapted.source_images": "source"}, "config.adapted.source_images = 'source': expected one of translation"),
    ({"adapted.init": "translation"}, "config.adapted.init = 'translation': expected one of"),
    ({"translation.init": "source"}, "config.translation.init = 'source': expected 'random'"),
    ({"translation.teacher": "adapted"}, "config.translation.teacher = 'adapted': expected one of source"),
    ({"translation.pool_size": 1}, "config.translation.pool_size = 1: expected 0, or at least"),
    ({"translation.window": (30, 64)}, "config.translation.window"),
    ({"translation.window_overlap": 0.5}, "acts beside a window alone"),
    ({"translation.semantic": "meaning"}, "config.translation.semantic = 'meaning': expected one of"),
    ({"translation.reduction": "sum"}, "acts beside a stage that labels pixels alone"),
    ({"views.crop_size": (34, 66), "views.target_stride": 2}, "multiples of 4, as stage 'translation'"),
    ({"handover": "best"}, "expected 'last', as stage 'translation' has no scores"),
])  # fmt: skip
def test_what_cannot_work_is_refused(change, message):
    c = config_of()
    c.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        settings.check(c)
