"""Whole training steps agree with the authors' released implementation: losses, gradients, updates, statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_inputs import integers, load, normal, uniform
from golden_network import assert_close, golden_variables, network_variables, relative_error, to_nhwc
from ml_collections import ConfigDict

from proda_jax import views
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.deeplab import DeepLab
from proda_jax.models.discriminator import Discriminator
from proda_jax.models.torch_names import to_torch
from proda_jax.prototypes import Prototypes
from proda_jax.resizing import resize_align_corners
from proda_jax.stages import denoise, distill, warmup
from proda_jax.stages import step as steps
from proda_jax.state import DiscriminatorState, TrainState, copy

TOLERANCE = 1e-3
CLASSES, CROP, FULL = 19, (64, 96), (96, 144)
SMALL = {"classes": CLASSES, "depths": (1, 1, 1, 1), "dropout": 0.0}


@pytest.fixture(scope="module")
def golden():
    return load("steps")


def stage_config(**settings) -> ConfigDict:
    return ConfigDict({"batch_norm": "batch", "reduction": "mean", "hard_labels": True, **settings})


def images(name: str, size=CROP) -> jax.Array:
    return jnp.asarray(to_nhwc(uniform(name, (2, 3, *size))))


def labels(name: str, ignore: str, share: float) -> jax.Array:
    label = integers(name, (2, *CROP), 0, CLASSES)
    return jnp.asarray(np.where(uniform(ignore, (2, *CROP)) < share, IGNORE, label), jnp.int32)


def source_inputs() -> dict:
    return {"source_image": images("source_image"), "source_label": labels("source_label", "source_ignore", 0.1)}


def optimizer(rate: float, head_rate: float) -> optax.GradientTransformation:
    """The step under test gets the optimizer that its stage builds."""
    from proda_jax.stages.build import network_optimizer

    settings = {
        "schedule": "poly",
        "schedule_steps": 10**9,
        "schedule_power": 0.9,
        "backbone_rate": rate,
        "head_rate": head_rate,
        "momentum": 0.9,
        "weight_decay": 2e-4,
        "backbone_steps": "once",
        "batch_norm": "batch",
    }
    return network_optimizer(ConfigDict(settings), steps_per_epoch=1)


def make_setup(model, config, rates, **kwargs) -> steps.Setup:
    crop = ConfigDict({"crop_size": CROP})
    return steps.Setup(model, optimizer(*rates), config, crop, **kwargs)


def make_state(setup, variables, **kwargs) -> TrainState:
    variables = copy(variables)
    opt_state = setup.optimizer.init(variables["params"])
    return TrainState(jnp.int32(0), jax.random.key(0), variables["params"], variables["batch_stats"], opt_state, **kwargs)


def record_gradient(state: TrainState, after: TrainState) -> dict:
    """The gradient that the optimizer saw: what its momentum holds after one step, less the weight decay."""
    traces = [x for x in jax.tree.leaves(after.opt_state, is_leaf=is_trace) if is_trace(x)]
    decayed = functools.reduce(merge, [trace.trace for trace in traces])
    return jax.tree.map(lambda g, p: g - 2e-4 * p, decayed, state.params)


def is_trace(x) -> bool:
    return isinstance(x, optax.TraceState)


def merge(a, b):
    """Two partial parameter trees as one; optax.partition masks the other groups' leaves."""
    masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(lambda x, y: y if masked(x) else x, a, b, is_leaf=masked)


def named_rates(names, rate: float, head_rate: float) -> dict[str, float]:
    return {name: head_rate if name.startswith(("layer5", "bn_pretrain")) else rate for name in names}


def check_step(golden, tag: str, state, after, metrics, rates) -> None:
    """Gradients, updates and statistics of a step against every golden array of its tag."""
    gradient = to_torch({"params": record_gradient(state, after)})
    updates = to_torch({"params": jax.tree.map(lambda a, b: np.float64(a) - np.float64(b), after.params, state.params)})
    rates = named_rates(updates, *rates)
    stats = to_torch({"batch_stats": after.batch_stats})
    actual = {f"{tag}_{name}_grad": value.ravel()[:512] for name, value in gradient.items()}
    actual |= {f"{tag}_{name}": value for name, value in stats.items()}
    actual[f"{tag}_grad_norm"] = metrics["gradient_norm"]
    checked = {name: value for name, value in golden.items() if name in actual}
    assert len(checked) >= 12
    assert_close(actual, checked, TOLERANCE)
    for name, update in updates.items():
        if (key := f"{tag}_{name}_move") in golden:
            # the difference of two float32 parameters is as fine as their rounding, which dividing by the rate enlarges
            rounding = 2**-22 * np.abs(to_torch({"params": after.params})[name]).max() / rates[name]
            error = np.abs(update.ravel()[:512] / rates[name] - golden[key]).max()
            assert error < TOLERANCE * np.abs(golden[key]).max() + rounding, (key, error)


# Stage 1


def weak_view() -> views.WeakView:
    return views.WeakView(
        scaled_size=jnp.asarray([FULL, FULL], jnp.int32),
        offset=jnp.asarray([[20, 40], [8, 12]], jnp.int32),
        flip=jnp.asarray([True, False]),
    )


def strong_view() -> views.StrongView:
    nothing = views.identity_strong_view(2)
    return nothing.replace(
        flip=jnp.asarray([True, False]), cutout=jnp.asarray([[8, 40, 16, 48], [20, 40, 0, 20]], jnp.int32)
    )


def denoise_inputs() -> denoise.Inputs:
    soft = jax.nn.softmax(2 * to_nhwc(normal("soft_logits", (2, CLASSES, *CROP))), axis=-1)
    return denoise.Inputs(
        **source_inputs(),
        target_full=images("target_full", FULL),
        target_weak=images("target_weak"),
        target_strong=images("target_strong"),
        soft_label=resize_align_corners(soft, (16, 24)),
        inside=jnp.ones((2, 16, 24), bool),
        weak_view=weak_view(),
        strong_view=strong_view(),
    )


@pytest.mark.parametrize(
    ("tag", "consistency", "regulariser"),
    [("stage1", 10.0, 0.1), ("stage1_synthia", 10.0, 0.0), ("stage1_noconsist", 0.0, 0.1)],
)
def test_a_stage_1_step_agrees_with_the_released_one(golden, tag, consistency, regulariser):
    config = stage_config(
        ce_weight=0.1,
        rce_weight=1.0,
        consistency_weight=consistency,
        regulariser_weight=regulariser,
        regulariser="mrkld",
        prototype_momentum=0.95,
        prototype_update="in_turn",
        prototype_min_pixels=10,
        unseen_prototypes="replace",
        ema_momentum=0.999,
        ema_view="image",
        ema_mode="train",
        temperature=1.0,
        label_threshold=0.0,
        label_source="fixed",
        weighting="prototypes",
    )
    rates, model = (1e-4, 1e-4), DeepLab(**SMALL)
    setup = make_setup(model, config, rates)
    vectors = jnp.asarray(0.7 * normal("proto", (CLASSES, 256)))
    state = make_state(
        setup,
        network_variables(model),
        ema_params=network_variables(model, salt=2000)["params"],
        prototypes=Prototypes(vectors, jnp.ones(CLASSES)),
    )
    after, metrics = jax.jit(lambda s, i: denoise.update(s, i, setup=setup))(state, denoise_inputs())
    cts = metrics["target_fit"] + regulariser * metrics.get("regulariser", 0.0)
    # the released step's `loss` leaves the source's term out
    assert relative_error(metrics["source_ce"], golden["source_ce"]) < TOLERANCE
    assert relative_error(cts, golden[f"{tag}_loss_cts"]) < TOLERANCE
    consist = metrics.get("consistency", 0.0)
    assert relative_error(cts + consistency * consist, golden[f"{tag}_loss"]) < TOLERANCE
    if consistency:
        assert relative_error(consist, golden[f"{tag}_loss_consist"]) < TOLERANCE
    check_step(golden, tag, state, after, metrics, rates)
    if f"{tag}_proto_after" in golden:
        np.testing.assert_allclose(after.prototypes.vectors, golden[f"{tag}_proto_after"], rtol=1e-3, atol=1e-4)
    ema = jax.tree.map(lambda a, b: (np.float64(a) - np.float64(b)) / 0.001, after.ema_params, state.ema_params)
    for name, value in to_torch({"params": ema}).items():
        if (key := f"{tag}_ema_{name}_move") in golden:
            rounding = 2**-22 * np.abs(golden[key]).max() / 0.001
            assert np.abs(value.ravel()[:512] - golden[key]).max() < TOLERANCE * np.abs(golden[key]).max() + rounding


# Stage 2


@pytest.mark.parametrize(("tag", "weight"), [("stage2", 1.0), ("stage2_kd100", 100.0)])
def test_a_stage_2_step_agrees_with_the_released_one(golden, tag, weight):
    config = stage_config(ce_weight=1.0, rce_weight=0.0, distillation_weight=weight, distillation_form="released")
    rates, student, teacher = (6e-4, 6e-3), DeepLab(**SMALL, extra_norm=True), DeepLab(**SMALL)
    setup = make_setup(student, config, rates, teacher=teacher)
    state = make_state(setup, network_variables(student))
    inputs = distill.Inputs(
        **source_inputs(),
        target_image=images("target_strong"),
        hard_label=labels("hard_label", "hard_ignore", 0.3),
        valid=jnp.ones((2, 16, 24), bool),  # the released code distils what is cut out, too
        strong_view=strong_view(),
    )
    step = jax.jit(lambda s, i, t: distill.update(s, i, t, setup=setup))
    after, metrics = step(state, inputs, network_variables(teacher, salt=1000))
    target = metrics["target_fit"] + weight * metrics["distillation"]
    assert relative_error(metrics["source_ce"], golden[f"{tag}_loss_source"]) < TOLERANCE
    assert relative_error(target, golden[f"{tag}_loss_target"]) < TOLERANCE
    check_step(golden, tag, state, after, metrics, rates)


# Warm-up


@pytest.mark.parametrize("weight", [0.01, 1.0])
@pytest.mark.parametrize("gan", ["LS", "Vanilla"])
def test_a_warm_up_step_agrees_with_the_released_one(golden, gan, weight):
    from proda_jax.stages.build import discriminator_optimizer

    tag = f"warmup_{gan}" + ("_adv1" if weight == 1.0 else "")
    schedule = {"schedule": "poly", "schedule_steps": 10**9, "schedule_power": 0.9, "discriminator_rate": 1e-4}
    config = stage_config(gan=gan.lower(), adversarial_weight=weight, **schedule)
    rates, model, judge = (1e-4, 1e-3), DeepLab(**SMALL), Discriminator()
    judging = discriminator_optimizer(config, steps_per_epoch=1)
    setup = make_setup(model, config, rates, discriminator=judge, discriminator_optimizer=judging)
    params = golden_variables(judge, jnp.zeros((1, *CROP, CLASSES)))["params"]
    state = make_state(
        setup, network_variables(model), discriminator=DiscriminatorState(params, judging.init(params))
    )
    inputs = warmup.Inputs(**source_inputs(), target_image=images("target_weak"))
    after, metrics = jax.jit(lambda s, i: warmup.update(s, i, setup=setup))(state, inputs)
    for name, key in (("source_ce", "loss_source"), ("adversarial", "loss_adv"), ("discriminator", "loss_d")):
        assert relative_error(metrics[name], golden[f"{tag}_{key}"]) < TOLERANCE, name
    check_step(golden, tag, state, after, metrics, rates)
    moves = jax.tree.map(lambda a, b: (np.float64(a) - np.float64(b)) / 1e-4, after.discriminator.params, params)
    checked = [k for k in golden if k.startswith(f"{tag}_d_")]
    for key in checked:
        name = key.removeprefix(f"{tag}_d_").removesuffix("_move")
        move = to_torch({"params": moves})[name].ravel()[:512]
        # Adam's first step is close to the gradient's sign: compare where the gradient is not rounding
        rounding = 2**-22 * np.abs(params_of(name, params)).max() / 1e-4
        assert np.mean(np.abs(move - golden[key]) < 2e-3 + rounding) > 0.99, key


def params_of(name: str, params) -> np.ndarray:
    return to_torch({"params": params})[name]
