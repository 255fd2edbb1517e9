"""Programs of the next stage, compiled while a stage trains: whether they are those that it asks for."""

import threading

import jax
import pytest
from survival import given
from tiny import block_source, tiny_config, tiny_stage

from proda_jax.configs import base
from proda_jax.run import ahead, experiment, train
from proda_jax.run.records import History
from proda_jax.run.sources import Sources
from proda_jax.system import devices
from proda_jax.system.checkpoints import Checkpoints


def config_of():
    """A stage of each kind that learns from images, after one on the source."""
    c = tiny_config()
    c.source = base.supervised("random", 1)
    c.warmup = base.warmup("source", 1)
    c.denoise = base.denoise("warmup", 1)
    c.distill = base.distill("denoise", "denoise", 1)
    c.mix = base.mix("source", 1)
    c.mix.rare_class_sampling, c.denoise.rare_class_sampling = True, True
    c.anchors = base.anchors("source", 1)
    c.oracle = base.supervised("warmup", 1, target_labels=True)
    c.translated = base.supervised("source", 1)
    c.translated.fourier_beta = 0.05
    c.stages = ("source", "warmup", "denoise", "distill", "mix", "anchors", "oracle", "translated")
    for name in c.stages:
        tiny_stage(c[name])
    c.distill.extra_norm = False
    c.snapshots.images = 0
    return c


def untrained(monkeypatch) -> dict:
    """Lets stages end before their first step; what the step would have been given, by stage."""
    taken = {}

    def not_trained(compiled_for, state, teacher, batches_from, evaluate, schedule, folder, mesh, title, *rest):
        taken[title] = state, next(devices.prefetch(batches_from(0), mesh)), teacher
        checkpoints = Checkpoints(folder / "checkpoints")
        checkpoints.save(state, None, rest[2])
        checkpoints.close()
        history = History(folder / "history.jsonl", -1)
        history.add({"step": 1, "seconds": 0.0})
        return state, history

    monkeypatch.setattr(train, "train", not_trained)
    return taken


def test_shapes_are_those_of_what_steps_take(tmp_path, monkeypatch):
    config, taken = config_of(), untrained(monkeypatch)
    sources = Sources(config, tmp_path, given=given(target=block_source(4, 1)))
    run = experiment.Experiment(config, tmp_path, sources, devices_used=2)
    foreseen = {name: run.steps.step_shapes(name, run.steps.setup(name)) for name in config.stages[1:]}
    run.run()

    def abstract(leaf) -> tuple:
        return jax.typeof(leaf), leaf.sharding

    for name, shapes in foreseen.items():
        assert jax.tree.map(abstract, shapes) == jax.tree.map(abstract, taken[name]), name


def test_what_makes_labels_takes_such_images(tmp_path, monkeypatch):
    config = config_of()
    sources = Sources(config, tmp_path, given=given())
    run = experiment.Experiment(config, tmp_path, sources, devices_used=2)
    _, (_, images) = run.steps.label_maker_shapes("denoise")
    batch = next(sources.open("target").ordered_batches(run.prepared.evaluation_batch, labels=False))
    put = devices.put_batch(batch["image"], run.mesh)
    assert (jax.typeof(images), images.sharding) == (jax.typeof(put), put.sharding)


@pytest.fixture
def compilations():
    """Names of the functions that were compiled, or found in JAX's files of compiled programs."""
    names = []

    def listen(event: str, duration: float, **about: str) -> None:
        if event.endswith("backend_compile_duration"):
            names.append(about.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_what_was_compiled_ahead_is_not_compiled_again(tmp_path, compilations):
    config = config_of()
    config.stages, config.evaluate_every = ("source", "distill"), 10
    config.distill.teacher = config.distill.init = "source"
    config.distill.ce_weight, config.evaluate_batch_size = 0.77, 3  # as no other test has, which might share programs
    run = experiment.Experiment(config, tmp_path, Sources(config, tmp_path, given=given()), devices_used=1)
    run.run_stage("source")
    for what in ("labels", "step"):
        run.steps.ahead.wait(("distill", what))
    before = len(compilations)
    run.run_stage("distill")
    assert {"jit(step)", "jit(hard_labels)"} <= set(compilations[:before])
    assert not {"jit(step)", "jit(hard_labels)"} & set(compilations[before:])


def test_what_is_given_up_is_forgotten_and_more_can_be_begun():
    work, running, done = ahead.Ahead(), threading.Event(), []
    work.begin("first", running.wait)
    work.begin("second", lambda: done.append("second"))
    work.give_up()
    running.set()
    work.begin("third", lambda: done.append("third"))
    work.wait("third")
    assert done == ["third"]


def test_a_step_is_given_up_after_the_last_stage_that_has_it(tmp_path, monkeypatch):
    config, given_up = config_of(), []
    config.again, config.stages = config.distill.copy_and_resolve_references(), ("source", "distill", "warmup", "again")
    config.distill.teacher = config.distill.init = config.again.teacher = "source"
    config.again.init = "distill"
    run = experiment.Experiment(config, tmp_path, Sources(config, tmp_path, given=given()), forgets=True)

    class Step:
        def __init__(self, of):
            self.of = of

        def clear_cache(self):
            given_up.append(self.of)

    found, step = {}, run.steps.step
    monkeypatch.setattr(run.steps, "step", lambda setup: found.setdefault(step(setup), Step(setup.stage.kind)))
    monkeypatch.setattr(run, "is_complete", lambda name: False)
    monkeypatch.setattr(run, "complete", lambda name: None)
    monkeypatch.setattr(run, "begin", lambda: None)
    for name in ("write_results", "results"):
        monkeypatch.setattr(run, name, lambda: {})
    run.run()
    assert given_up == ["supervised", "warmup", "distill"]
