"""Whose passes move running statistics, and what they are recomputed to."""

import functools

import jax
import ml_collections
import numpy as np
import pytest
from contracts import BATCH, make_batch
from contracts import run as run_row
from survival import At, assert_same_end, config_of, given, interrupt, run
from tiny import blocks, tiny_config, tiny_model, tiny_variables

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
    trained, _ = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables, images)
    stats = recomputed(1, len(IMAGES))
    evaluated = jax.jit(lambda v, x: model.apply(v, x, train=False))
    found, before = (evaluated(variables | changes, images) for changes in ({"batch_stats": stats}, {}))
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


@functools.cache
def averaged(count: int, size: int, crop: tuple[int, int] = IMAGES.shape[1:3], scale: float = 1.0) -> dict:
    """Statistics of crops of `IMAGES` in batches of this size on some devices; by default these are whole images."""
    mesh = devices.make_mesh(count)
    model = tiny_model(tiny_config(), devices.AXIS)
    variables = devices.replicate(tiny_variables(model.clone(axis_name=None), 0), mesh)
    views = ml_collections.ConfigDict({"crop_size": crop, "scale": (scale, scale), "flip": False, "base_width": 0})
    step = statistics.crop_moments_step(model, mesh, views, seed=7)
    places = range(0, len(IMAGES), size)
    batches = ({"image": IMAGES[i : i + size], "place": np.arange(i, i + size, dtype=np.int32)} for i in places)
    return jax.device_get(statistics.average(step, variables, devices.prefetch(batches, mesh)))


def test_averaged_statistics_are_the_mean_of_each_batchs_own():
    """Of whole images: what one batch alone is recomputed to is its own mean and variance."""
    mesh = devices.make_mesh(1)
    model = tiny_model(tiny_config(), devices.AXIS)
    variables = devices.replicate(tiny_variables(model.clone(axis_name=None), 0), mesh)
    step = statistics.moments_step(model, mesh)
    halves = [
        jax.device_get(statistics.recompute(step, variables, devices.prefetch(iter([{"image": half}]), mesh)))
        for half in (IMAGES[:4], IMAGES[4:])
    ]
    expected = jax.tree.map(lambda one, other: (one + other) / 2, *halves)
    found = averaged(1, 4)
    for path, value in jax.tree_util.tree_leaves_with_path(found):
        name, whole = jax.tree_util.keystr(path), functools.reduce(lambda tree, key: tree[key.key], path, expected)
        np.testing.assert_allclose(value, whole, rtol=1e-3, atol=1e-4 * np.abs(whole).max(), err_msg=name)
    mean = recomputed(1, 4)["backbone"]["bn1"]
    np.testing.assert_allclose(found["backbone"]["bn1"]["mean"], mean["mean"], rtol=1e-4, atol=1e-5)
    assert np.all(found["backbone"]["bn1"]["var"] <= mean["var"] * 1.001)  # which has what is between batches besides
    for name in ("mean", "std"):
        np.testing.assert_array_equal(found["input"][name], tiny_variables(tiny_model(tiny_config()), 0)
                                      ["batch_stats"]["input"][name])  # fmt: skip


def test_crops_lie_in_one_place_on_any_number_of_devices():
    one, two = (averaged(count, 4, (32, 48), 1.25) for count in (1, 2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4 * np.abs(a).max())
    whole = averaged(1, 4)
    assert np.abs(one["backbone"]["bn1"]["mean"] - whole["backbone"]["bn1"]["mean"]).max() > 1e-3


def trail_on(name: str, source_seed: int, **settings) -> list:
    """What a step of a row does on source images of a seed; a program without settings others have compiled, too."""
    source = dict(zip(("image", "label"), blocks(BATCH, source_seed), strict=True))
    batch = make_batch()
    return run_row(name, 1, batch | {"source": batch["source"] | source}, **settings)


def apart(one, other) -> float:
    """How far running statistics are apart, at most."""
    trees = (state.batch_stats for state, _ in (one, other))
    return max(np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, trees), strict=True))


@pytest.mark.parametrize("name", ["warmup", pytest.param("denoise", marks=pytest.mark.slow)])
def test_the_targets_passes_alone_move_statistics_where_it_is_chosen(name):
    settings = {} if name == "warmup" else {"under_test.statistics": "target"}  # which is this row's own
    (start, one), (_, other) = (trail_on(name, seed, **settings) for seed in (5, 6))
    assert apart(one, other) == 0.0 and apart(one, start) > 1e-3


@pytest.mark.parametrize("name", ["denoise", pytest.param("warmup", marks=pytest.mark.slow)])
def test_the_sources_passes_move_them_too_otherwise(name):
    settings = {} if name == "denoise" else {"under_test.statistics": "all"}  # which is denoise's own
    assert apart(*(trail_on(name, seed, **settings)[-1] for seed in (5, 6))) > 1e-3


def recomputing(stages: tuple[str, ...]):
    both = {f"{name}.statistics": "recomputed" for name in ("source", "stage1")}
    return config_of(stages=stages, save_every=2, evaluate_every=2, **both)


@pytest.fixture(scope="module", params=[("source",), pytest.param(("source", "stage1"), marks=pytest.mark.slow)])
def finished(request, tmp_path_factory):
    workdir, config = tmp_path_factory.mktemp("recomputed"), recomputing(request.param)
    return config, workdir, run(workdir, config)


def test_what_is_scored_kept_and_handed_on_has_recomputed_statistics(finished):
    _, workdir, results = finished
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
    config, *whole = finished
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config, At(config, config.stages[-1], 4, interrupt))
    assert_same_end(tmp_path, whole, *config.stages, config=config)


def test_a_run_with_averaged_statistics_resumes_to_the_bit_and_has_other_scores(tmp_path):
    config = recomputing(("source",))
    config.source.statistics = "averaged"
    results = run(tmp_path / "whole", config)
    last = results["stages"][-1]["last"]
    assert last["miou_running_statistics"] != last["miou"]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", config, At(config, "source", 4, interrupt))
    assert_same_end(tmp_path / "resumed", (tmp_path / "whole", results), "source", config=config)


@pytest.mark.parametrize(("stage", "choice", "changes", "message"), [
    ("stage1", "recomputed", {"stage1.batch_norm": "frozen"}, "expected 'all', as stage1.batch_norm is 'frozen'"),
    ("source", "target", {}, "this stage has no passes of target images"),
    ("stage1", "targets", {}, "did you mean 'target'"),
])  # fmt: skip
def test_a_choice_that_nothing_could_follow_is_refused(stage, choice, changes, message):
    config = config_of(**{f"{stage}.statistics": choice, **changes})
    with pytest.raises(ValueError, match=f"config.{stage}.statistics.*{message}"):
        settings.check(config)
