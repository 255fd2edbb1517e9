"""Self-supervised pretraining: its loss against the formula, its views, and what it hands on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import IMAGE, block_source, blocks, tiny_config, tiny_model, tiny_stage, tiny_variables

from proda_jax.adaptation import losses
from proda_jax.adaptation.stages import build, pretrain
from proda_jax.configs import base
from proda_jax.data.memory import MemorySource
from proda_jax.inference.loading import load
from proda_jax.run import settings
from proda_jax.run.experiment import Experiment
from proda_jax.run.sources import Sources
from proda_jax.system import devices

IMAGES, CHANNELS = 4, 6


def nt_xent(first: np.ndarray, second: np.ndarray, temperature: float) -> float:
    """Equation 1 of SimCLR and its mean over all positive pairs, written as in the paper: a loop over i and k."""
    z = [vector / np.sqrt((vector**2).sum()) for vector in (*first, *second)]
    n, total = len(first), 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = sum(np.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i)
        total -= np.log(np.exp(z[i] @ z[j] / temperature) / others)
    return total / (2 * n)


def projections(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, IMAGES, CHANNELS)).astype(np.float32)


contrast = jax.jit(losses.contrast, static_argnames="temperature")


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_is_that_of_simclr(temperature):
    first, second = projections()
    loss, _ = contrast(first, second, temperature=temperature)
    assert loss == pytest.approx(nt_xent(first, second, temperature), rel=1e-5)


def test_the_loss_knows_views_by_their_direction_alone_and_counts_those_that_find_their_partner():
    first, second = projections()
    loss, _ = contrast(first, second, temperature=0.5)
    scaled, _ = contrast(3 * first, second / 7, temperature=0.5)
    assert scaled == pytest.approx(float(loss), rel=1e-5)
    corners = np.eye(IMAGES, CHANNELS, dtype=np.float32)
    assert contrast(corners, corners, temperature=0.5)[1] == 1.0
    turned = np.roll(corners, 1, axis=0)
    assert contrast(corners, turned, temperature=0.5)[1] == 0.0


@pytest.mark.parametrize("count", [2, 4])
def test_views_of_other_devices_are_negatives_too_in_the_loss_and_its_gradient(count):
    first, second = projections()

    def share(first, second, axis_name=None):
        return losses.contrast(first, second, temperature=0.5, axis_name=axis_name, total=jnp.int32(2 * IMAGES))[0]

    def step(first, second):
        value, gradient = jax.value_and_grad(share, argnums=(0, 1))(first, second, devices.AXIS)
        return jax.lax.psum(value, devices.AXIS), gradient

    value, gradient = jax.jit(jax.value_and_grad(share, argnums=(0, 1)))(first, second)
    mapped = devices.map_step(step, devices.make_mesh(count), "bb", "rb")
    found, theirs = mapped(first, second)
    assert found == pytest.approx(float(value), rel=1e-6)
    np.testing.assert_allclose(theirs[0], gradient[0], atol=1e-6)
    np.testing.assert_allclose(theirs[1], gradient[1], atol=1e-6)


def pretraining(steps: int = 10, **changes):
    stage = tiny_stage(base.pretrain("random", steps), projection_channels=16, hidden_channels=32)
    stage.views.scale = (0.75, 1.5)
    stage.update(changes)
    return stage


def test_the_two_views_of_an_image_differ_and_neither_depends_on_the_others_in_the_batch():
    c = tiny_config()
    c.stages, c.pretrained = ("pretrained",), pretraining()
    model = build.stage_network(tiny_model(c), c.pretrained)
    setup = build.setup(c, "pretrained", model=model, teacher=None, steps_per_epoch=10)
    create = jax.jit(functools.partial(build.create_state, setup))
    state = create(build.stage_key(0, "pretrained"), tiny_variables(model, 1))
    images, slots = blocks(3, 1)[0], np.arange(3, dtype=np.int32)
    draw = jax.jit(lambda images, slots: pretrain.two_views(setup, state, images, slots))
    first, second = jax.device_get(draw(images, slots))
    assert first.shape == (3, 32, 64, 3) and np.abs(first - second).mean() > 0.02
    alone, _ = draw(images[2:], slots[2:])
    np.testing.assert_allclose(np.asarray(alone)[0], first[2], atol=1e-5)


# The stage


def coloured(seed: int) -> MemorySource:
    """Four images of a colour each, below noise."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, 256, (4, 1, 1, 3))
    image = np.clip(colours + generator.normal(0, 10, (4, *IMAGE, 3)), 0, 255).astype(np.uint8)
    return MemorySource(image, np.zeros((4, *IMAGE), np.uint8))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir in which a student is to be distilled onto a backbone that was pretrained there."""
    workdir = tmp_path_factory.mktemp("pretrained")
    c = tiny_config()
    c.stages = ("source", "pretrained", "student")
    c.source = tiny_stage(base.supervised("random", 1))
    c.pretrained = pretraining(20, batch_size=4)
    c.student = tiny_stage(base.distill("source", "pretrained", 2), extra_norm=True)
    c.pretrained.jitter = dict.fromkeys(c.pretrained.jitter, 0.0)  # by colour is how these images differ
    c.pretrained.grey = 0.0
    c.log_every, c.snapshots.images = 1, 0
    settings.check(c)
    given = {"source": coloured(0), "target": coloured(1)}
    run = Experiment(c, workdir, Sources(c, workdir, given | {"validation": block_source(2, 2)}), devices_used=1)
    run.begin()
    for name in ("source", "pretrained"):
        run.complete(name)
    return c, run, run.results()


def test_pretraining_learns_to_tell_images_apart(finished):
    _, run, results = finished
    lines = (run.workdir.folder("pretrained") / "metrics.jsonl").read_text().splitlines()
    contrast = [float(line.split('"contrast": ')[1].split(",")[0]) for line in lines]
    assert np.mean(contrast[-5:]) < 0.7 * np.mean(contrast[:3])
    assert results["stages"][1]["last"] == {"step": 20}  # nothing to score


def test_a_student_takes_the_backbone_and_a_head_of_its_own(finished):
    _, run, _ = finished
    student = run.networks.initial("student", run.networks.model("student"))
    pretrained = run.networks.variables("pretrained")
    jax.tree.map(np.testing.assert_array_equal, student["params"]["backbone"], pretrained["params"]["backbone"])
    assert set(pretrained["params"]["head"]) == {"projection1", "projection2"}
    assert "classifier" in student["params"]["head"] and "extra_norm" in student["params"]


def test_the_table_shows_no_score_of_it_and_nothing_is_predicted_with_it(finished):
    _, run, _ = finished
    row = next(line for line in run.table().splitlines() if line.startswith("pretrained"))
    assert row.split()[1] == "20" and row.split()[3:] == ["-"]
    with pytest.raises(ValueError, match="'pretrained' is pretraining, whose network labels nothing"):
        load(run.workdir.path, stage="pretrained")
    with pytest.raises(ValueError, match="'pretrained' is pretraining"):
        run.evaluate("pretrained")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"student.teacher": "pretrained"}, "config.student.teacher = 'pretrained': expected one of source"),
        ({"pretrained.contrast_temperature": 0.0}, "config.pretrained.contrast_temperature"),
        ({"pretrained.batch_size": 0}, "config.pretrained.batch_size"),
        ({"handover": "best"}, "config.handover = 'best': expected 'last', as stage 'pretrained' has no scores"),
    ],
)
def test_what_pretraining_cannot_do_is_refused(finished, change, message):
    c = finished[0].copy_and_resolve_references()
    c.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        settings.check(c)


def test_a_supervised_network_can_give_its_backbone_alone_too(finished, tmp_path):
    c = finished[0].copy_and_resolve_references()
    c.student.init, c.student.init_takes = "source", "backbone"
    settings.check(c)
    run = finished[1]
    run = Experiment(c, run.workdir.path, run.sources, devices_used=1)
    start, source = run.networks.initial("student", run.networks.model("student")), run.networks.variables("source")
    jax.tree.map(np.testing.assert_array_equal, start["params"]["backbone"], source["params"]["backbone"])
    ours, theirs = (v["params"]["head"]["classifier"]["kernel"] for v in (start, source))
    assert not np.array_equal(ours, theirs)
