"""The step on mixed images descends the objective that its docstring names, and each term of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import PROTOTYPES, one_batch
from tiny import CLASSES, tiny_config, tiny_model, tiny_stage, tiny_variables
from within import results_of

from proda_jax.adaptation.stages import build, contrast, mix, passes
from proda_jax.adaptation.views import class_mix
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.normalisation import is_batch_norm
from proda_jax.models.resizing import resize_align_corners
from proda_jax.run import idle, settings

RATE, THRESHOLD, THINGS = 0.125, 0.3, ("sky", "road", "tree")
CONTRAST, HEAT = 0.6, 0.5
TERMS = {"source": 1.0, "mixed": 0.7, "masked": 0.4, "distance": 0.3, "source_contrast": CONTRAST,
         "target_contrast": CONTRAST, "likeness": 0.8}  # fmt: skip
FOUNDATION = np.random.default_rng(5).normal(size=(CLASSES, 384)).astype(np.float32)


def config_of(**changes):
    c = tiny_config()
    c.model.dropout = 0.0
    c.mixing = tiny_stage(
        base.mix("random", 10), batch_norm="frozen", momentum=0.0, weight_decay=0.0, schedule="constant",
        label_threshold=THRESHOLD, mixed_weight=TERMS["mixed"], masked_weight=TERMS["masked"], mask_block=8,
        feature_distance_weight=TERMS["distance"], feature_distance_classes=THINGS, ignored_margins=(3, 5, 0, 0),
        contrast_weight=CONTRAST, contrast_after=0, contrast_temperature=HEAT, contrast_channels=8, contrast_share=0.5,
        foundation="dinov3_vits16", foundation_weight=TERMS["likeness"], foundation_temperature=0.3,
    )  # fmt: skip
    c.mixing.backbone_rate = c.mixing.head_rate = RATE
    c.update_from_flattened_dict({f"mixing.{key}": value for key, value in changes.items()})
    return c


def setup_of(**changes):
    c = config_of(**changes)
    model = build.stage_network(tiny_model(c), c.mixing)
    return build.setup(c, "mixing", model=model, teacher=None, steps_per_epoch=10)


@functools.cache
def stepped() -> tuple:
    """State, drawn inputs, frozen variables, the pairs of a step, and the state after it."""
    setup = setup_of()
    variables, teacher, frozen = (jax.tree.map(jnp.float32, tiny_variables(setup.model, i)) for i in range(3))
    create = jax.jit(functools.partial(build.create_state, setup))
    state = create(jax.random.key(0), variables, foundation=FOUNDATION)
    state = state.replace(ema_params=teacher)

    @jax.jit
    def step(state, batch, frozen):
        with results_of(mix, "draw_inputs", "mix", "mask", "contrast_of") as found:
            after = mix.train_step(state, batch, frozen, setup=setup)
        return found["draw_inputs"], [found[name] for name in ("mix", "mask", "contrast_of")], *after

    return setup, state, teacher, frozen, *jax.device_get(step(state, one_batch(), frozen))


def unit(x):
    return x / (x**2).sum(-1, keepdims=True) ** 0.5


def statistics_of(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each class's features."""
    of = [features[labels == k] if (labels == k).any() else np.zeros((1, features.shape[-1])) for k in range(CLASSES)]
    return np.array([f.mean(0) for f in of]), np.array([f.var(0) for f in of])


@functools.cache
def gradient():
    """(parameters, weight of each term) -> gradient of the objective as it is written down here."""
    setup, state, teacher, frozen, inputs, (mixed, masked, contrasted), *_ = stepped()

    @jax.jit
    def seen(variables, image):
        output, own = setup.model.apply(variables, image, train=False, mutable=["intermediates"])
        return output, own["intermediates"]["encoded"][0]

    said = seen(teacher, inputs.target_image)[0].logits
    said = np.asarray(jax.jit(lambda z: jax.nn.softmax(resize_align_corners(z, setup.crop_size)))(said))
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
    _, frozen_encoded = seen(frozen, inputs.source_image)
    grid = frozen_encoded.shape[1:3]
    dominant = jax.jit(mix.feature_distance.dominant_label, static_argnums=(1, 2))
    things = np.isin(dominant(inputs.source_label, grid, CLASSES), (0, 3, 5))
    assert 0 < things.mean() < 1
    known = seen(teacher, inputs.source_image)[0].projected
    mean, variance = statistics_of(unit(np.asarray(known)), contrasted.source)
    clear = [np.mean(y != IGNORE) for y in (contrasted.source, contrasted.target)]
    assert min(clear) > 0.05 and max(clear) < 1

    def objective(params, weights):
        variables = {"params": params, "batch_stats": state.batch_stats}
        images = inputs.source_image, mixed.image, masked.image, contrasted.image  # normalised each by itself
        output, encoded = jax.tree.map(lambda x: jnp.split(x, 4), seen(variables, jnp.concatenate(images)))
        logits, projected = output.logits, output.projected

        def pixel_losses(logits, label):
            log_p = jax.nn.log_softmax(resize_align_corners(logits, setup.crop_size))
            index = jnp.where(label == IGNORE, 0, label)[..., None]
            return jnp.where(label == IGNORE, 0.0, -jnp.take_along_axis(log_p, index, -1)[..., 0])

        def contrast(projected, y):
            f = unit(projected)[y != IGNORE]
            spread = 0.5 * f**2 @ (variance.T / HEAT)
            log_p, index = jax.nn.log_softmax((f @ mean.T + spread) / HEAT), y[y != IGNORE][:, None]
            return jnp.mean(jnp.take_along_axis(spread / HEAT - log_p, index, -1))

        source = pixel_losses(logits[0], inputs.source_label)
        total = weights["source"] * source.sum() / np.sum(inputs.source_label != IGNORE)
        total += weights["mixed"] * jnp.mean(mixed.weight * pixel_losses(logits[1], mixed.label))
        total += weights["masked"] * jnp.mean(weight * pixel_losses(logits[2], label))
        total += weights["source_contrast"] * contrast(projected[0], contrasted.source)
        total += weights["target_contrast"] * contrast(projected[3], contrasted.target)
        rows, columns = (np.arange(n) * size // n for n, size in zip(grid, setup.crop_size, strict=True))
        nearest = inputs.source_label[:, rows][:, :, columns]
        log_p = jax.nn.log_softmax(unit(output.likened[0]) @ unit(FOUNDATION).T / 0.3)
        fit = -jnp.take_along_axis(log_p, np.where(nearest == IGNORE, 0, nearest)[..., None], -1)[..., 0]
        total += weights["likeness"] * jnp.sum(fit * (nearest != IGNORE)) / np.sum(nearest != IGNORE)
        apart = jnp.linalg.norm(encoded[0] - frozen_encoded, axis=-1)
        return total + weights["distance"] * jnp.sum(apart * things) / things.sum()

    return jax.jit(jax.grad(objective))


def difference(left_out: str | None) -> float:
    """Of the step from the descent of the objective, as a share of it."""
    _, state, *_, after, _ = stepped()
    wanted = gradient()(state.params, TERMS | ({left_out: 0.0} if left_out else {}))
    moved = jax.tree.map(lambda a, b: (np.asarray(a) - b) / RATE, state.params, after.params)
    flat = [  # of what a frozen normalisation leaves free to move
        np.concatenate([np.ravel(x) for path, x in jax.tree.leaves_with_path(tree) if not is_batch_norm(path[-2].key)])
        for tree in (moved, wanted)
    ]
    return np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])


def test_a_step_descends_the_whole_objective():
    assert difference(None) < 1e-4


@pytest.mark.parametrize("term", TERMS)
def test_no_term_of_the_objective_could_be_left_out(term):
    assert difference(term) > 0.01


def test_the_teacher_is_the_mean_of_the_networks_so_far_and_its_statistics_are_its_own():
    _, state, *_, after, _ = stepped()
    networks = state.ema_params, {"params": after.params, "batch_stats": after.batch_stats}, after.ema_params
    for old, new, teacher in zip(*map(jax.tree.leaves, jax.device_get(networks)), strict=True):
        np.testing.assert_allclose(teacher, (old + new) / 2, atol=1e-6)


def test_a_masked_image_shows_the_networks_centre_where_it_is_hidden():
    _, state, _, _, inputs, (_, masked, _), *_ = stepped()
    hidden = np.all(np.isclose(masked.image, state.batch_stats["input"]["mean"]), axis=-1)
    assert 0.5 < hidden.mean() < 0.9


@pytest.mark.parametrize(("statistics", "name", "moves"), [
    ("target", "masked", False), ("recomputed", "masked", False), ("all", "masked", True), ("target", "mixed", True),
])  # fmt: skip
def test_images_with_hidden_blocks_move_running_statistics_only_where_all_do(statistics, name, moves):
    setup, (_, state, *_, (mixed, _, _), _, _) = setup_of(batch_norm="batch", statistics=statistics), stepped()

    def after(stats):
        taken = mix.pair_pass(name, mixed, mix.Totals(None, 1.0, 1.0), setup)
        return passes.gradients(setup, state, stats, [taken])[1]["backbone"]

    traced = jax.make_jaxpr(after)(state.batch_stats).jaxpr
    assert any(out not in traced.invars for out in traced.outvars) == moves


def test_every_second_masked_image_is_the_sources_with_its_labels_where_that_is_chosen():
    """By its place in the global batch, so that devices and micro-batches do not matter."""
    _, state, _, _, inputs, *_ = stepped()
    setup = setup_of(mask_source=True, mask_strong=False, mask_ratio=0.0)
    label = jnp.full(inputs.source_label.shape, 1)
    placed = inputs.replace(slots=jnp.asarray([6, 7, 9, 12], jnp.int32))
    pair = jax.jit(lambda inputs: mix.mask(state, inputs, label, jnp.full(label.shape, 0.25), setup))(placed)
    for place, of_source in enumerate((True, False, False, True)):
        image = inputs.source_image if of_source else inputs.target_image
        np.testing.assert_array_equal(pair.image[place], image[place])
        np.testing.assert_array_equal(pair.label[place], inputs.source_label[place] if of_source else 1)
        assert np.all(pair.weight[place] == (1.0 if of_source else 0.25))


def test_contrast_waits_and_remembers_meanwhile():
    setup, state, *_, after, _ = stepped()
    assert np.sum(after.contrast.statistics.amount) > 0 and not np.any(state.contrast.statistics.amount)
    late = setup_of(contrast_after=3)
    output = type("Output", (), {"projected": jnp.ones((1, 2, 2, 8))})
    labels, known = jnp.zeros((1, 2, 2), int), after.contrast
    term_of = jax.jit(lambda step: mix.contrast_term(state.replace(step=step), output, labels, known, 4, late))
    for step, acts in ((2, False), (3, True)):
        term, value = map(float, term_of(step))
        assert value > 0 and np.isclose(term, CONTRAST * value if acts else 0.0)


def test_a_bank_holds_means_of_the_last_batches_with_a_class():
    setup = setup_of(contrast_with="bank", contrast_bank=2)
    r, current = np.random.default_rng(0), contrast.begin(CLASSES, 8, 2)
    seen = [(r.normal(size=(1, 3, 4, 8)), r.integers(0, 3 + i, (1, 3, 4))) for i in range(3)]
    remember = jax.jit(functools.partial(contrast.remember, setup=setup))
    for features, labels in seen:
        current = remember(current, np.float32(features), labels)
    for k in range(CLASSES):
        means = [unit(f)[y == k].mean(0) for f, y in seen if (y == k).any()][-2:]
        held = np.asarray(current.bank.held[k])
        assert held.sum() == len(means)
        np.testing.assert_allclose(np.asarray(current.bank.vectors[k])[held], np.reshape(means, (-1, 8)), atol=1e-6)


def test_prototypes_choose_labels_and_say_how_much_they_count():
    setup = setup_of(weighting="prototypes", temperature=0.5, feature_distance_weight=0.0, contrast_weight=0.0,
                     foundation=None)  # fmt: skip
    variables = jax.tree.map(jnp.float32, tiny_variables(setup.model, 0))
    state = jax.jit(functools.partial(build.create_state, setup))(jax.random.key(0), variables, PROTOTYPES)

    @jax.jit
    def taught_in(state, batch):
        inputs = mix.draw_inputs(state, batch, setup)
        plain = setup.model.apply(variables, inputs.target_image, train=False)
        return inputs, mix.teacher_predictions(state, inputs, setup), plain

    inputs, taught, output = jax.device_get(taught_in(state, one_batch()))
    apart = np.linalg.norm(np.asarray(output.features)[..., None, :] - PROTOTYPES.vectors, axis=-1)
    shares = jax.jit(lambda z: jax.nn.softmax(resize_align_corners(z, setup.crop_size)))
    omega, p = np.asarray(shares(np.float32(-apart / 0.5))), np.asarray(shares(output.logits))
    label = np.where(inputs.inside, (p * omega).argmax(-1), IGNORE)
    assert np.mean(taught.label != label) < 1e-3
    trust = np.take_along_axis(omega, (p * omega).argmax(-1)[..., None], -1)[..., 0]
    np.testing.assert_allclose(taught.trust, trust, atol=1e-3)
    np.testing.assert_allclose(mix.label_weight(taught, inputs, setup), np.where(inputs.kept, trust, 0), atol=1e-3)


@pytest.mark.parametrize(("setting", "value", "said"), [
    ("weighting", "network", "config.mixing.weighting = 'network': expected one of"),
    ("strong.hue", 2.0, "config.mixing.strong.hue = 2.0: expected a share"),
    ("strong_colours", "other", "config.mixing.strong_colours = 'other': expected"),
    ("strong.blur_sigma", (1.0, 0.5), "config.mixing.strong.blur_sigma"),
    ("ignored_margins", (20, 20, 0, 0), "config.mixing.ignored_margins"),
    ("feature_distance_classes", ("skye",), "config.mixing.feature_distance_classes = 'skye'"),
    ("mask_ratio", 1.5, "config.mixing.mask_ratio"),
    ("feature_distance_weight", 0.1, "config.mixing.feature_distance_weight = 0.1: expected 0 from a network that"),
    ("contrast_weight", 0.0, "config.mixing.contrast_"),
    ("contrast_bank", 7, "config.mixing.contrast_bank = 7: expected 200, as it acts beside contrast_with 'bank'"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(setting, value, said):
    c = config_of(**{"feature_distance_weight": 0.0, "foundation": None} | {setting: value})
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        settings.check_stage(c, "mixing", ())


@pytest.mark.parametrize(("changes", "setting"), [
    ({"strong.jitter_probability": 0.0, "strong.hue": 0.1}, "strong.hue"),
    ({"strong.jitter_probability": 0.0, "strong_colours": "kornia"}, "strong_colours"),
    ({"strong.blur_probability": 0.0, "strong.blur_sigma": (0.1, 0.2)}, "strong.blur_sigma"),
    ({"mixed_weight": 0.0, "contrast_weight": 0.0, "mask_strong": False, "strong.hue": 0.1}, "strong.hue"),
    ({"mixed_weight": 0.0, "masked_weight": 0.0, "strong.blur_probability": 0.1}, "strong.blur_probability"),
    ({"strong.hue": 0.1}, ""),
])  # fmt: skip
def test_a_setting_of_views_that_nothing_sees_is_refused(changes, setting):
    c = tiny_config()
    c.mixing = base.mix("random", 10)
    c.mixing.update_from_flattened_dict({"masked_weight": 1.0} | changes)
    if not setting:
        idle.check(c, "mixing")
        return
    with pytest.raises(ValueError, match=rf"config.mixing.{setting} = .*as it acts beside"):
        idle.check(c, "mixing")


def test_half_of_the_batchs_classes_may_be_few_of_an_images():
    present = np.array([[True, False, False, True], [False, True, True, True]])
    own = np.asarray(jax.jit(class_mix.choose_half)(present, np.arange(8).reshape(2, 4)))
    np.testing.assert_array_equal(own.sum(1), [1, 2])
