"""Whole training steps agree with the authors' released implementation: losses, gradients, updates, statistics.

The golden steps were computed in float64. In float32 a single activation close to zero can fall on the other side of
its ReLU, which moves the gradients of all layers before it by some thousandths. So every step runs in float64, where
all arrays have to agree closely (one of stages 1 and 2 always, the others with `-m slow`), and one of each stage in
float32 as well, which is what training computes in.
"""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_inputs import integers, load, normal, uniform
from golden_network import assert_close, golden_variables, network_variables, to_nhwc
from ml_collections import ConfigDict
from view_examples import identity_strong_view

from proda_jax.adaptation import views
from proda_jax.adaptation.optim import discriminator_optimizer, network_optimizer
from proda_jax.adaptation.prototypes import Prototypes
from proda_jax.adaptation.stages import denoise, distill, warmup
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import DiscriminatorState, TrainState, copy
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.backbones import backbone
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.discriminator import Discriminator
from proda_jax.models.resizing import resize_align_corners
from proda_jax.models.weights.torch_names import to_torch

GOLDEN = load("steps")
# of an array's largest magnitude
TOLERANCE = {"float64": 1e-4, "float32": 1e-3}
CLASSES, CROP, FULL = 19, (64, 96), (96, 144)
WEIGHT_DECAY = 2e-4


def small_network(dtype: str, **settings) -> SegmentationNetwork:
    small = backbone("resnet101", (1, 1, 1, 1))
    return SegmentationNetwork(classes=CLASSES, backbone=small, dropout=0.0, dtype=jnp.dtype(dtype), **settings)


@functools.cache
def weights(extra_norm: bool, salt: int) -> dict:
    return jax.tree.map(np.asarray, network_variables(small_network("float32", extra_norm=extra_norm), salt))


def variables(dtype: str, *, extra_norm: bool = False, salt: int = 0) -> dict:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), weights(extra_norm, salt))


def stage_config(**settings) -> ConfigDict:
    schedule = {"schedule": "poly", "schedule_steps": 10**9, "schedule_power": 0.9, "backbone_steps": "once"}
    sgd = {"momentum": 0.9, "weight_decay": WEIGHT_DECAY, "batch_norm": "batch", "reduction": "mean"}
    others = {"optimizer": "sgd", "schedule_warmup": 0, "decay_vectors": True, "layer_decay": 1.0,
              "label_selector": "threshold", "mean_over": "domain", "regulariser_over": "all"}
    return ConfigDict(schedule | sgd | others | settings)


def make_setup(model: SegmentationNetwork, config: ConfigDict, **kwargs) -> steps.Setup:
    """The step under test gets the optimizer that its stage builds."""
    optimizer = network_optimizer(config, model.backbone, steps_per_epoch=1)
    return steps.Setup(model, optimizer, config, ConfigDict({"crop_size": CROP, "target_stride": 4}), **kwargs)


def make_state(setup: steps.Setup, start: dict, **kwargs) -> TrainState:
    start = copy(start)
    opt_state = setup.optimizer.init(start["params"])
    return TrainState(jnp.int32(0), jax.random.key(0), start["params"], start["batch_stats"], opt_state, **kwargs)


def golden_images(name: str, size: tuple[int, int] = CROP) -> jax.Array:
    return jnp.asarray(to_nhwc(uniform(name, (2, 3, *size))))


def golden_labels(name: str, ignore: str, share: float) -> jax.Array:
    label = integers(name, (2, *CROP), 0, CLASSES)
    return jnp.asarray(np.where(uniform(ignore, (2, *CROP)) < share, IGNORE, label), jnp.int32)


def source_inputs() -> dict:
    label = golden_labels("source_label", "source_ignore", 0.1)
    return {"source_image": golden_images("source_image"), "source_label": label}


# What a step did


def momentum_of(after: TrainState) -> dict:
    """What the optimizer holds after one step from rest: the gradient it saw and the weight decay."""
    is_trace = lambda x: isinstance(x, optax.TraceState)  # noqa: E731
    return functools.reduce(merge, [x.trace for x in jax.tree.leaves(after.opt_state, is_leaf=is_trace) if is_trace(x)])


def merge(a, b):
    """Two partial parameter trees as one; optax.partition masks the other groups' leaves."""
    masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(lambda x, y: y if masked(x) else x, a, b, is_leaf=masked)


def by_name(params) -> dict[str, np.ndarray]:
    return to_torch({"params": params})


def first(values: np.ndarray) -> np.ndarray:
    """What the golden files keep of gradients and moves."""
    return values.ravel()[:512].astype(np.float64)


def network_rates(config: ConfigDict, names: Iterable[str]) -> dict[str, float]:
    """Learning rate of each parameter: the head's for all that comes after the backbone."""
    after_backbone = ("layer5", "bn_pretrain")
    return {name: config.head_rate if name.startswith(after_backbone) else config.backbone_rate for name in names}


def golden_of(tag: str) -> dict[str, np.ndarray]:
    """All golden arrays of a tag, without those of longer tags such as 'stage1_synthia'."""
    longer = [f"{tag}_{more}_" for more in ("synthia", "noconsist", "kd100", "adv1")]
    return {
        name.removeprefix(f"{tag}_"): value
        for name, value in GOLDEN.items()
        if name.startswith(f"{tag}_") and not name.startswith(tuple(longer))
    }


def check_step(tag: str, dtype: str, config: ConfigDict, before: TrainState, after: TrainState, values: dict) -> None:
    """Every golden array of a tag, the discriminator's aside, agrees with what the step did.

    Args:
      tag: the recipe's name in the golden file.
      dtype: what the network computed in.
      config: of the stage, for the rates.
      before, after: the state around the step.
      values: losses and what else is golden besides gradients, moves and running statistics.
    """
    expected = {name: value for name, value in golden_of(tag).items() if not name.startswith("d_")}
    actual = to_torch({"batch_stats": after.batch_stats}) | values
    old, new, momentum = (by_name(params) for params in (before.params, after.params, momentum_of(after)))
    rates = network_rates(config, old)
    if after.ema_params is not None:
        old |= {f"ema_{name}": value for name, value in by_name(before.ema_params).items()}
        new |= {f"ema_{name}": value for name, value in by_name(after.ema_params).items()}
        rates |= {name: 1.0 - config.ema_momentum for name in old if name.startswith("ema_")}
    for name in expected:
        parameter, _, what = name.rpartition("_")
        if what == "grad":
            actual[name] = first(momentum[parameter]) - WEIGHT_DECAY * first(old[parameter])
        elif what == "move":
            actual[name] = (first(new[parameter]) - first(old[parameter])) / rates[parameter]
    assert set(expected) <= set(actual), set(expected) - set(actual)
    tolerances = {name: tolerance_of(name, value, dtype, rates) for name, value in expected.items()}
    wrong = {}
    for name, value in expected.items():
        error = np.abs(np.asarray(actual[name], np.float64) - value).max()
        if not error < tolerances[name]:
            wrong[name] = (error, tolerances[name])
    assert not wrong, f"{tag}: (error, tolerance) of {wrong}"


def tolerance_of(name: str, value: np.ndarray, dtype: str, rates: dict[str, float]) -> float:
    """How far an array may be from the golden one."""
    tolerance = TOLERANCE[dtype] * np.abs(value).max() + 1e-9
    if dtype == "float32" and name.endswith("_move"):
        # the difference of two float32 parameters is as fine as their rounding, which dividing by the rate enlarges
        tolerance += 2**-22 / rates[name.removesuffix("_move")]
    return tolerance


# Stage 1


def denoise_inputs() -> denoise.Inputs:
    soft = jax.nn.softmax(2 * to_nhwc(normal("soft_logits", (2, CLASSES, *CROP))), axis=-1)
    weak_view = views.WeakView(
        scaled_size=jnp.asarray([FULL, FULL], jnp.int32),
        offset=jnp.asarray([[20, 40], [8, 12]], jnp.int32),
        flip=jnp.asarray([True, False]),
    )
    return denoise.Inputs(
        **source_inputs(),
        target_full=golden_images("target_full", FULL),
        target_weak=golden_images("target_weak"),
        target_strong=golden_images("target_strong"),
        soft_label=resize_align_corners(soft, (16, 24)),
        inside=jnp.ones((2, 16, 24), bool),
        weak_view=weak_view,
        strong_view=strong_view(),
    )


def strong_view() -> views.StrongView:
    return identity_strong_view(2).replace(
        flip=jnp.asarray([True, False]),
        cutout=jnp.asarray([[8, 40, 16, 48], [20, 40, 0, 20]], jnp.int32),
    )


def denoise_config(consistency_weight: float, regulariser_weight: float) -> ConfigDict:
    return stage_config(
        backbone_rate=1e-4,
        head_rate=1e-4,
        hard_labels=True,
        label_source="fixed",
        label_threshold=0.0,
        weighting="prototypes",
        temperature=1.0,
        ce_weight=0.1,
        rce_weight=1.0,
        consistency_weight=consistency_weight,
        regulariser_weight=regulariser_weight,
        regulariser="mrkld",
        consistency_over_classes="mean",
        ema_momentum=0.999,
        ema_view="image",
        ema_crop="released",
        ema_mode="train",
        prototype_momentum=0.95,
        prototype_update="in_turn",
        prototype_distance="euclidean",
        self_label_weight=0.0,
        queue_contrast_weight=0.0,
        prototype_min_pixels=10,
        unseen_prototypes="replace",
    )


@pytest.mark.parametrize(
    ("tag", "consistency_weight", "regulariser_weight", "dtype"),
    [
        ("stage1", 10.0, 0.1, "float64"),
        pytest.param("stage1_synthia", 10.0, 0.0, "float64", marks=pytest.mark.slow),
        pytest.param("stage1_noconsist", 0.0, 0.1, "float64", marks=pytest.mark.slow),
        pytest.param("stage1", 10.0, 0.1, "float32", marks=pytest.mark.slow),
    ],
)
def test_a_stage_1_step_agrees_with_the_released_one(tag, consistency_weight, regulariser_weight, dtype):
    with jax.enable_x64(dtype == "float64"):
        config = denoise_config(consistency_weight, regulariser_weight)
        setup = make_setup(small_network(dtype), config)
        vectors = jnp.asarray(0.7 * normal("proto", (CLASSES, 256)))
        before = make_state(
            setup,
            variables(dtype),
            ema_params=variables(dtype, salt=2000)["params"],
            prototypes=Prototypes(vectors, jnp.ones(CLASSES, jnp.float32)),
        )
        step = jax.jit(functools.partial(denoise.update, setup=setup))
        after, metrics = step(before, denoise_inputs())
        assert_close(metrics, {"source_ce": GOLDEN["source_ce"]}, TOLERANCE[dtype])
        # the released step's `loss` leaves the source's term out
        weak = metrics["target_fit"] + regulariser_weight * metrics.get("regulariser", 0.0)
        consistency = metrics.get("consistency", 0.0)
        values = {
            "loss_cts": weak,
            "loss_consist": consistency,
            "loss": weak + consistency_weight * consistency,
            "grad_norm": metrics["gradient_norm"],
            "proto_after": after.prototypes.vectors,
        }
        check_step(tag, dtype, config, before, after, values)


# Stage 2


@pytest.mark.parametrize(
    ("tag", "weight", "dtype"),
    [
        pytest.param("stage2", 1.0, "float64", marks=pytest.mark.slow),
        ("stage2_kd100", 100.0, "float64"),
        pytest.param("stage2_kd100", 100.0, "float32", marks=pytest.mark.slow),
    ],
)
def test_a_stage_2_step_agrees_with_the_released_one(tag, weight, dtype):
    with jax.enable_x64(dtype == "float64"):
        config = stage_config(
            backbone_rate=6e-4,
            head_rate=6e-3,
            ce_weight=1.0,
            rce_weight=0.0,
            distillation_weight=weight,
            distillation_form="released",
            source_weight=1.0,
            rectified=False,
            auxiliary_ce_weight=0.0,
            regulariser_weight=0.0,
        )
        setup = make_setup(small_network(dtype, extra_norm=True), config, teacher=small_network(dtype))
        before = make_state(setup, variables(dtype, extra_norm=True))
        inputs = distill.Inputs(
            **source_inputs(),
            target_image=golden_images("target_strong"),
            hard_label=golden_labels("hard_label", "hard_ignore", 0.3),
            valid=jnp.ones((2, 16, 24), bool),  # the released code distils what is cut out, too
            strong_view=strong_view(),
        )
        step = jax.jit(functools.partial(distill.update, setup=setup))
        after, metrics = step(before, inputs, variables(dtype, salt=1000))
        values = {
            "loss_source": metrics["source_ce"],
            "loss_target": metrics["target_fit"] + weight * metrics["distillation"],
            "grad_norm": metrics["gradient_norm"],
        }
        check_step(tag, dtype, config, before, after, values)


# Warm-up


def warm_up_setup(gan: str, weight, dtype: str) -> steps.Setup:
    config = stage_config(**dict(base.warmup("", 1)) | {"batch_norm": "batch", "schedule_steps": 10**9, "gan": gan})
    config.backbone_rate, config.head_rate = 1e-4, 1e-3
    with config.ignore_type():
        config.adversarial_weight = weight
    return make_setup(
        small_network(dtype),
        config,
        discriminator=Discriminator(dtype=jnp.dtype(dtype)),
        discriminator_optimizer=discriminator_optimizer(config, steps_per_epoch=1),
    )


@functools.cache
def warm_up_step(gan: str, dtype: str):
    """The compiled step, for any adversarial weight."""

    def step(state: TrainState, inputs: warmup.Inputs, weight: jax.Array):
        return warmup.update(state, inputs, setup=warm_up_setup(gan, weight, dtype))

    return jax.jit(step)


@pytest.mark.parametrize(
    ("gan", "weight", "dtype"),
    [
        pytest.param("LS", 0.01, "float64", marks=pytest.mark.slow),
        pytest.param("LS", 1.0, "float64", marks=pytest.mark.slow),
        pytest.param("Vanilla", 0.01, "float64", marks=pytest.mark.slow),
        pytest.param("Vanilla", 1.0, "float64", marks=pytest.mark.slow),
        ("LS", 0.01, "float32"),
        ("LS", 1.0, "float32"),
    ],
)
def test_a_warm_up_step_agrees_with_the_released_one(gan, weight, dtype):
    tag = f"warmup_{gan}" + ("_adv1" if weight == 1.0 else "")
    with jax.enable_x64(dtype == "float64"):
        setup = warm_up_setup(gan.lower(), weight, dtype)
        judge = golden_variables(setup.discriminator, jnp.zeros((1, *CROP, CLASSES)))["params"]
        judge = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), judge)
        before = make_state(
            setup,
            variables(dtype),
            discriminator=DiscriminatorState(judge, setup.discriminator_optimizer.init(judge)),
        )
        inputs = warmup.Inputs(**source_inputs(), target_image=golden_images("target_weak"))
        after, metrics = warm_up_step(gan.lower(), dtype)(before, inputs, weight)
        names = {"loss_source": "source_ce", "loss_adv": "adversarial", "loss_d": "discriminator"}
        values = {name: metrics[metric] for name, metric in names.items()} | {"grad_norm": metrics["gradient_norm"]}
        check_step(tag, dtype, setup.stage, before, after, values)
    rounding = 2**-22 / 1e-4 if dtype == "float32" else 0.0
    old, new = by_name(judge), by_name(after.discriminator.params)
    for name in ("conv1.weight", "classifier.bias"):
        errors = np.abs((first(new[name]) - first(old[name])) / 1e-4 - GOLDEN[f"{tag}_d_{name}_move"])
        # Adam's first step is close to the gradient's sign, which says nothing where the gradient is rounding
        assert np.mean(errors < 2e-3 + rounding) > 0.99, name
