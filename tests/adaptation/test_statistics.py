"""Whose passes move running statistics, and what they are recomputed to."""

import functools

import jax
import numpy as np
import pytest
from contracts import stage_in
from survival import At, assert_same_end, config_of, given, interrupt, run
from tiny import CLASSES, blocks, tiny_config, tiny_model, tiny_variables

from proda_jax.adaptation import statistics
from proda_jax.models import weights
from proda_jax.models.weights.torch_names import from_torch
from proda_jax.run import settings
from proda_jax.system import devices

IMAGES = blocks(8, 3)[0]


@functools.cache
def recomputed(count: int, size: int) -> dict:
    """Statistics of `IMAGES` in batches of this size on some devices, and the network's variables."""
    mesh = devices.make_mesh(count)
    model = tiny_model(tiny_config(), devices.AXIS)
    variables = devices.replicate(tiny_variables(model.clone(axis_name=None), 0), mesh)
    step = statistics.moments_step(model, mesh)
    batches = devices.prefetch(({"image": IMAGES[i : i + size]} for i in range(0, len(IMAGES), size)), mesh)
    return jax.device_get(statistics.recompute(step, variables, batches))


def test_a_network_with_statistics_of_one_batch_predicts_as_it_does_in_training():
    model = tiny_model(tiny_config())
    variables = tiny_variables(model, 0)
    images = IMAGES.astype(np.float32) / 255
    trained, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
    stats = recomputed(1, len(IMAGES))
    found = model.apply({"params": variables["params"], "batch_stats": stats}, images, train=False)
    before = model.apply(variables, images, train=False)
    # all but that running variances are unbiased: by a two-hundredth where a map has 7 x 13 positions of 8 images
    np.testing.assert_allclose(found.logits, trained.logits, atol=0.02 * np.abs(trained.logits).max())
    assert np.abs(found.logits - before.logits).max() > 0.2 * np.abs(trained.logits).max()
    for name in ("mean", "std"):  # of the images, which is no normalisation
        np.testing.assert_array_equal(stats["input"][name], variables["batch_stats"]["input"][name])


def test_several_batches_and_devices_make_the_first_layers_statistics_those_of_all_images():
    whole = recomputed(1, len(IMAGES))
    for count, size in ((1, 2), (2, 4)):
        parts = recomputed(count, size)
        for name in ("mean", "var"):  # below the first normalisation nothing depends on the batch
            np.testing.assert_allclose(parts["backbone"]["bn1"][name], whole["backbone"]["bn1"][name], rtol=2e-3)


def after_a_step(name: str, choice: str, source_seed: int) -> dict:
    """Running statistics after a step on source images of a seed, of a stage with this choice of statistics."""
    chosen = {"under_test.statistics": choice, "under_test.batch_norm": "batch", "model.dtype": "float32"}
    step, state, teacher, mesh = stage_in(name, 1, **chosen)
    images, labels = blocks(4, source_seed)
    targets, _ = blocks(4, 1)
    target = {"image": targets}
    if name == "denoise":
        soft = np.random.default_rng(0).dirichlet(np.ones(CLASSES), (4, 7, 13)).astype(np.float16)
        target["soft_label"] = soft
    batch = {"source": {"image": images, "label": labels.astype(np.uint8)}, "target": target,
             "slot": np.arange(4, dtype=np.int32)}  # fmt: skip
    state, _ = step(state, devices.put_batch(batch, mesh), teacher)
    return jax.device_get(state.batch_stats)


@pytest.mark.parametrize("name", ["warmup", "denoise"])
def test_the_targets_passes_alone_move_statistics_where_it_is_chosen(name):
    def moved(choice: str, first: int, second: int) -> float:
        a, b = (after_a_step(name, choice, seed) for seed in (first, second))
        return max(np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

    assert moved("target", 5, 6) == 0.0
    assert moved("all", 5, 6) > 1e-3


def config_with(choice: str):
    config = config_of(**{"source.statistics": "recomputed", "stage1.statistics": choice, "save_every": 2})
    config.evaluate_every = 2
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("recomputed")
    return workdir, run(workdir, config_with("recomputed"))


def test_what_is_scored_kept_and_handed_on_has_recomputed_statistics(finished):
    workdir, results = finished
    for stage in results["stages"]:
        last = stage["last"]
        assert last["miou_running_statistics"] != last["miou"]
    target, mesh, model = given()["target"], devices.make_mesh(1), tiny_model(tiny_config(), devices.AXIS)
    like = tiny_variables(model.clone(axis_name=None), 0)
    variables = from_torch(weights.load(workdir / "source").arrays, like)
    images = ({"image": target.images[i : i + 2]} for i in (0, 2))  # an epoch of batches; the order changes nothing
    again = statistics.recompute(
        statistics.moments_step(model, mesh), devices.replicate(variables, mesh), devices.prefetch(images, mesh)
    )
    stored, found = variables["batch_stats"]["backbone"]["bn1"], again["backbone"]["bn1"]
    np.testing.assert_allclose(stored["mean"], found["mean"], rtol=1e-4, atol=1e-5)


def test_a_run_with_recomputed_statistics_resumes_to_the_bit(finished, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config_with("recomputed"), At(config_of(), "stage1", 4, interrupt))
    assert_same_end(tmp_path, finished, "source", "stage1", config=config_with("recomputed"))


@pytest.mark.parametrize(("stage", "choice", "changes", "message"), [
    ("stage1", "recomputed", {"stage1.batch_norm": "frozen"}, "expected 'all', as stage1.batch_norm is 'frozen'"),
    ("source", "target", {}, "this stage has no passes of target images"),
    ("stage1", "targets", {}, "did you mean 'target'"),
])  # fmt: skip
def test_a_choice_that_nothing_could_follow_is_refused(stage, choice, changes, message):
    config = config_of(**{f"{stage}.statistics": choice, **changes})
    with pytest.raises(ValueError, match=f"config.{stage}.statistics.*{message}"):
        settings.check(config)
