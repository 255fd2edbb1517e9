"""A stage that translates the source writes it once, goes on with what is missing, and others learn from it."""

import contextlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


def config_of():
    c = tiny_config()
    c.snapshots.images = 0
    c.stages = ("source", "translation", "adapted")
    c.source = tiny_stage(base.supervised("random", 1))
    c.translation = base.translate("source", 2)
    c.translation.generator_channels, c.translation.generator_blocks = 4, 1
    c.translation.discriminator_channels = (4, 8)
    c.adapted = tiny_stage(base.supervised("source", 1), source_images="translation")
    return c


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose source stage is a stand-in, and whose translation is complete."""
    workdir, c = tmp_path_factory.mktemp("translation"), config_of()
    settings.check(c)
    given = {"source": block_source(4, 0), "target": block_source(4, 1, labelled=False)}
    given["validation"] = block_source(2, 2)
    run = Experiment(c, workdir, Sources(c, workdir, given), devices_used=1)
    model = run.networks.model("source")
    with contextlib.closing(Checkpoints(workdir / "source" / "checkpoints")) as checkpoints:
        network = jax.tree.map(jnp.asarray, tiny_variables(model.clone(axis_name=None), 0))
        checkpoints.save_network(network, None, card_of(c, "source", model).as_json())
    entry = {"step": 0, "miou": 1.0}
    run.workdir.finish("source", {"name": "source", "steps": 0, "seconds": 1, "best": entry, "last": entry})
    provenance.remember(run.workdir.folder("source"), c, "source")
    run.complete("translation")
    run.translations("translation")
    return c, run, given


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
    store, names = run.translations("translation"), source.names
    assert len(store_of(run)) == len(names)
    assert np.abs(store.read(names[0]).astype(int) - expected[0]).max() <= 1
    assert np.abs(store.read(names[0]).astype(int) - source.images[0]).max() > 20

    batch = next(run.batches("adapted", None, 0))
    plain = next(source.training_batches(2, seed=build.order_seed(c.seed, "adapted"), labels=True))
    np.testing.assert_array_equal(batch["source"]["label"], plain["label"])
    wanted = np.stack([store.read(names[record]) for record in plain["record"]])
    np.testing.assert_array_equal(batch["source"]["image"], wanted)
    held = run.labelled("adapted").to_memory(labels=True)
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
    again.translations("translation")
    for path in files:
        assert Translations.decode(path.read_bytes()).tobytes() == Translations.decode(before[path][0]).tobytes()
    assert [os.stat(path).st_mtime_ns == before[path][1] for path in files] == [False, False, True, True]


def test_other_settings_are_refused(finished):
    c, run, _ = finished
    c = c.copy_and_resolve_references()
    c.translation.window = (32, 64)
    other = Experiment(c, run.workdir.path, run.sources, devices_used=1)
    with pytest.raises(ValueError, match="holds translated images of another origin"):
        other.translations("translation")
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
