"""The step on mixed images descends the objective that its docstring names, and each term of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import PROTOTYPES, one_batch
from tiny import CLASSES, tiny_config, tiny_model, tiny_stage, tiny_variables

from proda_jax.adaptation.stages import build, mix
from proda_jax.adaptation.views import class_mix
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.normalisation import is_batch_norm
from proda_jax.models.resizing import resize_align_corners
from proda_jax.run import settings

RATE, THRESHOLD, THINGS = 0.125, 0.3, ("sky", "road", "tree")
TERMS = {"source": 1.0, "mixed": 0.7, "masked": 0.4, "distance": 0.3}


def config_of(**changes):
    c = tiny_config()
    c.model.dropout = 0.0
    c.mixing = tiny_stage(
        base.mix("random", 10), batch_norm="frozen", momentum=0.0, weight_decay=0.0, schedule="constant",
        label_threshold=THRESHOLD, mixed_weight=TERMS["mixed"], masked_weight=TERMS["masked"], mask_block=8,
        feature_distance_weight=TERMS["distance"], feature_distance_classes=THINGS, ignored_margins=(3, 5, 0, 0),
    )  # fmt: skip
    c.mixing.backbone_rate = c.mixing.head_rate = RATE
    c.update_from_flattened_dict({f"mixing.{key}": value for key, value in changes.items()})
    return c


def setup_of(**changes):
    c = config_of(**changes)
    return build.setup(c, "mixing", model=tiny_model(c), teacher=None, steps_per_epoch=10)


@functools.cache
def stepped() -> tuple:
    """State, drawn inputs, frozen variables, the pairs of a step, and the state after it."""
    setup = setup_of()
    variables, teacher, frozen = (jax.tree.map(jnp.float32, tiny_variables(setup.model, i)) for i in range(3))
    state = build.create_state(setup, jax.random.key(0), variables)
    state = state.replace(ema_params=teacher["params"], ema_batch_stats=teacher["batch_stats"])

    @jax.jit
    def step(state, batch, frozen):
        inputs = mix.draw_inputs(state, batch, setup)
        taught = mix.teach(state, inputs, setup)
        weight = mix.label_weight(taught, inputs, setup)
        pairs = [make(state, inputs, taught.label, weight, setup) for make in (mix.mix, mix.mask)]
        return inputs, pairs, *mix.train_step(state, batch, frozen, setup=setup)

    return setup, state, teacher, frozen, *jax.device_get(step(state, one_batch(), frozen))


@functools.cache
def gradient(left_out: str | None) -> dict:
    """Of the objective as it is written down here, without one of its terms."""
    setup, state, teacher, frozen, inputs, (mixed, masked), *_ = stepped()
    weights = TERMS | {left_out: 0.0}
    said = setup.model.apply(teacher, inputs.target_image, train=False).logits
    said = np.asarray(jax.nn.softmax(resize_align_corners(said, setup.crop_size)))
    label = np.where(inputs.inside, said.argmax(-1), IGNORE)
    share = [np.mean(s[inside] >= THRESHOLD) for s, inside in zip(said.max(-1), inputs.inside, strict=True)]
    weight = np.broadcast_to(np.float32(share)[:, None, None], label.shape).copy()
    weight[:, :3] = weight[:, -5:] = 0.0
    weight[~inputs.inside] = 0.0
    assert 0.05 < min(share) and max(share) < 0.98  # so that a threshold shows
    pasted = (mixed.weight == 1.0) & (mixed.label == inputs.source_label)
    np.testing.assert_array_equal(mixed.label, np.where(pasted, inputs.source_label, label))
    np.testing.assert_allclose(mixed.weight, np.where(pasted, 1.0, weight), rtol=1e-6)
    np.testing.assert_array_equal(masked.label, label)
    _, kept = setup.model.apply(frozen, inputs.source_image, train=False, mutable=["intermediates"])
    grid = kept["intermediates"]["encoded"][0].shape[1:3]
    things = np.isin(mix.feature_distance.dominant_label(inputs.source_label, grid, CLASSES), (0, 3, 5))
    assert 0 < things.mean() < 1

    def objective(params):
        variables = {"params": params, "batch_stats": state.batch_stats}

        def pixel_losses(image, label):
            output, own = setup.model.apply(variables, image, train=False, mutable=["intermediates"])
            log_p = jax.nn.log_softmax(resize_align_corners(output.logits, setup.crop_size))
            index = jnp.where(label == IGNORE, 0, label)[..., None]
            fit = -jnp.take_along_axis(log_p, index, -1)[..., 0]
            return jnp.where(label == IGNORE, 0.0, fit), own["intermediates"]["encoded"][0]

        source, encoded = pixel_losses(inputs.source_image, inputs.source_label)
        total = weights["source"] * source.sum() / np.sum(inputs.source_label != IGNORE)
        for name, image, labels, counted in (
            ("mixed", mixed.image, mixed.label, mixed.weight), ("masked", masked.image, label, weight),
        ):  # fmt: skip
            total += weights[name] * jnp.mean(counted * pixel_losses(image, labels)[0])
        apart = jnp.linalg.norm(encoded - kept["intermediates"]["encoded"][0], axis=-1)
        return total + weights["distance"] * jnp.sum(apart * things) / things.sum()

    return jax.device_get(jax.jit(jax.grad(objective))(state.params))


def difference(left_out: str | None) -> float:
    """Of the step from the descent of the objective, as a share of it."""
    _, state, *_, after, _ = stepped()
    moved = jax.tree.map(lambda a, b: (np.asarray(a) - b) / RATE, state.params, after.params)
    flat = [  # of what a frozen normalisation leaves free to move
        np.concatenate([np.ravel(x) for path, x in jax.tree.leaves_with_path(tree) if not is_batch_norm(path[-2].key)])
        for tree in (moved, gradient(left_out))
    ]
    return np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])


def test_a_step_descends_the_whole_objective():
    assert difference(None) < 1e-4


@pytest.mark.parametrize("term", TERMS)
def test_no_term_of_the_objective_could_be_left_out(term):
    assert difference(term) > 0.01


def test_the_teacher_is_the_mean_of_the_networks_so_far_and_its_statistics_are_its_own():
    _, state, *_, after, _ = stepped()
    networks = state.ema_params, after.params, after.ema_params
    for old, new, teacher in zip(*map(jax.tree.leaves, networks), strict=True):
        np.testing.assert_allclose(teacher, (old + new) / 2, atol=1e-6)
    for own, teacher in zip(*map(jax.tree.leaves, (state.ema_batch_stats, after.ema_batch_stats)), strict=True):
        assert teacher.shape == own.shape


def test_a_masked_image_shows_the_networks_centre_where_it_is_hidden():
    _, state, _, _, inputs, (_, masked), *_ = stepped()
    hidden = np.all(np.isclose(masked.image, state.batch_stats["input"]["mean"]), axis=-1)
    assert 0.5 < hidden.mean() < 0.9


def test_prototypes_choose_labels_and_say_how_much_they_count():
    setup = setup_of(weighting="prototypes", temperature=0.5, feature_distance_weight=0.0)
    variables = jax.tree.map(jnp.float32, tiny_variables(setup.model, 0))
    state = build.create_state(setup, jax.random.key(0), variables, jax.tree.map(jnp.asarray, PROTOTYPES))
    inputs = mix.draw_inputs(state, one_batch(), setup)
    taught = mix.teach(state, inputs, setup)
    output = setup.model.apply(variables, inputs.target_image, train=False)
    apart = np.linalg.norm(np.asarray(output.features)[..., None, :] - PROTOTYPES.vectors, axis=-1)
    omega = np.asarray(jax.nn.softmax(-resize_align_corners(jnp.float32(apart), setup.crop_size) / 0.5))
    p = np.asarray(jax.nn.softmax(resize_align_corners(output.logits, setup.crop_size)))
    label = np.where(inputs.inside, (p * omega).argmax(-1), IGNORE)
    assert np.mean(taught.label != label) < 1e-3
    trust = np.take_along_axis(omega, (p * omega).argmax(-1)[..., None], -1)[..., 0]
    np.testing.assert_allclose(taught.trust, trust, atol=1e-3)
    np.testing.assert_allclose(mix.label_weight(taught, inputs, setup), np.where(inputs.kept, trust, 0), atol=1e-3)


@pytest.mark.parametrize(("setting", "value", "said"), [
    ("weighting", "network", "config.mixing.weighting = 'network': expected one of"),
    ("strong.hue", 2.0, "config.mixing.strong.hue = 2.0: expected a share"),
    ("strong.blur_sigma", (1.0, 0.5), "config.mixing.strong.blur_sigma"),
    ("ignored_margins", (20, 20, 0, 0), "config.mixing.ignored_margins"),
    ("feature_distance_classes", ("skye",), "config.mixing.feature_distance_classes = 'skye'"),
    ("mask_ratio", 1.5, "config.mixing.mask_ratio"),
    ("feature_distance_weight", 0.1, "config.mixing.feature_distance_weight = 0.1: expected 0 from a network that"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(setting, value, said):
    c = config_of(**{"feature_distance_weight": 0.0} | {setting: value})
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        settings.check_stage(c, "mixing", ())


def test_half_of_the_batchs_classes_may_be_few_of_an_images():
    present = jnp.array([[True, False, False, True], [False, True, True, True]])
    own = np.asarray(class_mix.choose_half(present, jnp.arange(8).reshape(2, 4)))
    np.testing.assert_array_equal(own.sum(1), [1, 2])
