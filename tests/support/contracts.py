"""The rows that the battery of contract tests runs over, and the one place where it builds networks and steps.

A backbone has every test of `tests/contracts` as soon as it is in the table of backbones, a head likewise. A stage
needs a row in `STAGES`.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from tiny import CLASSES, CROP, blocks, tiny_config, tiny_model, tiny_stage, tiny_variables

from proda_jax.adaptation.prototypes import Prototypes
from proda_jax.adaptation.stages import build, kinds
from proda_jax.adaptation.stages import step as steps
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.backbones import BACKBONES as ROWS
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.heads import HEADS
from proda_jax.system import devices

# Networks

BACKBONES = {row.family: name for name, row in ROWS.items()}  # rows of a family differ in sizes, which are tiny here
LABELLING_HEADS = [name for name, head in HEADS.items() if head.segments]
NETWORKS = [(backbone, head) for backbone in BACKBONES.values() for head in HEADS]
# that a family is compiled with, where it is not the released one
HEAD_OF = {"mit": "daformer", "dinov2": "light", "dinov3": "light"}
# each backbone below one head and each head above one backbone, for what takes a compiler's time
COMPILED = [(name, HEAD_OF.get(family, "released")) for family, name in BACKBONES.items()]
COMPILED += [(BACKBONES["resnet"], head) for head in HEADS if head not in dict(map(reversed, COMPILED))]
COMPILED.append((BACKBONES["resnet"], "deeplab+lower"))  # with a second head
AGAIN = [(BACKBONES["resnet"], "released"), (BACKBONES["mit"], "daformer"), (BACKBONES["resnet"], "deeplab+lower")]
NETWORKS += [(BACKBONES["resnet"], f"{head}+{second}") for head in ("released", "deeplab", "light")
             for second in ("lower", "parallel")]  # fmt: skip
# settings of a small network, where they are other than depths and width
SMALL: dict[str, dict] = dict.fromkeys(("dinov2_vitl14_reg", "dinov3_vitl16"), {"depths": (1,), "width": 64})
SMALL["efficientnet_lite2"] = {"depths": (1,) * 6, "width": 8}


def network_config(backbone: str, head: str, dtype: str = "float32") -> ml_collections.ConfigDict:
    """The tiny configuration with this backbone and head, 'deeplab', or two, 'deeplab+lower'."""
    config = tiny_config()
    config.model.backbone = backbone
    config.model.update(SMALL.get(backbone, {}))
    config.model.head, _, second = head.partition("+")
    config.model.dtype = dtype
    if second:
        config.model.auxiliary_head, config.model.auxiliary_weight = second, 0.5
    return config


def network(backbone: str, head: str, dtype: str = "float32", axis_name: str | None = None) -> SegmentationNetwork:
    return tiny_model(network_config(backbone, head, dtype), axis_name)


def shapes_of(model: SegmentationNetwork, image: tuple[int, int]) -> tuple[tuple, tuple]:
    """(height, width, channels) of features and class scores that images of this size are to give."""
    channels, grid = model.backbone.channels, model.backbone.output_size(image)
    if not HEADS[model.head].segments:
        return (1, 1, channels), (1, 1, model.classes)
    if model.head == "daformer":
        grid = model.backbone.level_sizes(image)[0]
    if model.head == "deeplabv3plus":  # the last level that is finer than the last and no coarser than 8 pixels
        strides = [level.stride for level in model.backbone.levels]
        grid = model.backbone.level_sizes(image)[sum(stride <= min(8, strides[-1] - 1) for stride in strides) - 1]
    if model.head == "light":
        grid, channels = tuple(4 * n for n in grid), channels // 4
    features = model.feature_channels if model.head in ("released", "daformer", "deeplabv3plus") else channels
    return (*grid, features), (*grid, model.classes)


# Stages

BATCH = 4
CHANNELS = 32  # of the feature
GRID = (7, 13)  # of the network's output on a whole image
PROTOTYPES = Prototypes(
    np.random.default_rng(0).normal(size=(CLASSES, CHANNELS)).astype(np.float32), np.ones(CLASSES, np.float32)
)


@dataclass(frozen=True)
class Row:
    """A stage of the battery.

    Attributes:
      section: its section of the configuration, anew at each call.
      splits: whether the step is a sum over examples, so that it may be computed in micro-batches.
      settings: that make an error show, and keep rounding from flipping an argmax.
      model: settings of the network.
    """

    section: Callable[[], ml_collections.ConfigDict]
    splits: bool = True
    settings: tuple[tuple[str, Any], ...] = ()
    model: tuple[tuple[str, Any], ...] = ()


SLOW = (("backbone_rate", 1e-4), ("head_rate", 1e-4))  # the method's rate
SELF_LABELS = (
    ("prototype_distance", "cosine"), ("temperature", 0.08), ("self_label_weight", 1.0), ("self_label_queue", 40),
    ("self_label_pixels", 12), *SLOW,
)  # fmt: skip
STAGES = {  # the first of each kind is the one of the ordinary suite
    "oracle": Row(  # whose source images alone are drawn by their classes
        lambda: base.supervised("random", 10, target_labels=True),
        settings=(
            ("rare_class_sampling", True), ("rare_class_crop_pixels", 8), ("largest_class", 0.9), ("crop_tries", 3),
        ),
    ),
    "supervised": Row(
        lambda: base.supervised("random", 10), settings=(("regulariser_weight", 0.5), ("fourier_beta", 0.05)),
    ),
    "pretrain": Row(
        lambda: base.pretrain("random", 10),
        splits=False,  # each view is told apart from those beside it
        settings=(("projection_channels", 16), ("hidden_channels", 32)),
    ),
    "warmup": Row(
        lambda: base.warmup("random", 10),
        settings=(
            ("adversarial_weight", 1.0), ("label_weight", 0.5), ("batch_norm", "batch"), ("statistics", "target"),
        ),
    ),
    "two_levels": Row(  # what AdaptSegNet, ADVENT and CLAN are made of
        lambda: base.warmup("random", 10),
        settings=(
            ("auxiliary_ce_weight", 0.5), ("auxiliary_adversarial_weight", 0.5), ("adversarial_weight", 1.0),
            ("adversarial_on", "information"), ("gan", "vanilla"), ("discriminator", "fully_convolutional"),
            ("discriminator_channels", (8, 8)), ("entropy_weight", 0.5), ("auxiliary_entropy_weight", 0.25),
            ("scores_at", "image"), ("local_weight", 10.0), ("local_after", 1), ("damping_steps", 50), ("focus", 2.0),
            ("reduction", "image"), ("batch_norm", "affine_frozen"), ("memory_weight", 0.5), ("memory_after", 1), *SLOW,
        ),
        model=(("auxiliary_head", "lower"), ("auxiliary_weight", 0.5)),
    ),
    "class_aware": Row(  # FADA's, with two heads that are to differ
        lambda: base.warmup("random", 10),
        settings=(
            ("gan", "classes"), ("adversarial_on", "features"), ("adversarial_weight", 1.0), ("scores_at", "image"),
            ("discriminator", "pixelwise"), ("discriminator_channels", (8, 8)), ("logit_temperature", 1.0),
            ("soft_label_limit", 0.2),
            ("auxiliary_ce_weight", 1.0), ("weight_divergence", 1.0),
        ),
        model=(("auxiliary_head", "parallel"), ("head", "deeplab")),
    ),
    "perturbed": Row(  # APODA's
        lambda: base.warmup("random", 10),
        settings=(
            ("perturbation", 0.2), ("perturbation_steps", 2), ("adversarial_weight", 0.0), ("gan", "vanilla"),
            ("adversarial_on", "features"), ("discriminator", "pixelwise"), ("discriminator_channels", (8, 8)),
        ),
    ),
    "denoise": Row(lambda: base.denoise("random", 10), settings=(("label_threshold", 0.3), *SLOW)),
    "self_training": Row(lambda: base.self_training("random", 10), settings=(("label_threshold", 0.3),)),
    "anchors": Row(
        lambda: base.anchors("random", 10),
        settings=(("anchor_margin", 0.1), ("label_threshold", 0.3), ("anchor_gradient", "released"), *SLOW),
    ),
    "distill": Row(lambda: base.distill("random", "random", 10)),
    "rare_and_hard": Row(  # Seg-Uncertainty's first
        lambda: base.warmup("random", 10),
        splits=False,  # a micro-batch has its own hard pixels
        settings=(
            ("rare_weight", 7.0), ("rare_pixels", 128), ("hard_share", 0.5), ("adversarial_weight", 1.0),
            ("auxiliary_adversarial_weight", 0.5), ("auxiliary_ce_weight", 0.5), ("discriminated", "heads"),
            ("discriminator", "multi_scale"), ("discriminator_channels", (8, 8)), ("gradient_penalty", 1.0), *SLOW,
        ),
        model=(("auxiliary_head", "lower"), ("auxiliary_weight", 0.5)),
    ),
    "rectified": Row(  # Seg-Uncertainty's second
        lambda: base.distill("random", "random", 10),
        settings=(("rectified", True), ("auxiliary_ce_weight", 0.5), ("distillation_weight", 0.0),
                  ("target_view", "weak"), ("source_weight", 0.5)),
        model=(("auxiliary_head", "lower"), ("auxiliary_weight", 0.5)),
    ),
    "patches": Row(  # PatchAlign's
        lambda: base.warmup("random", 10),
        settings=(
            ("adversarial_weight", 1.0), ("patch_modes", 6), ("patch_size", (16, 16)), ("patch_channels", 8),
            ("patch_weight", 0.5), ("patch_adversarial_weight", 0.5), ("gan", "vanilla"),
        ),
    ),
    "translate": Row(  # CyCADA's and BDL's
        lambda: base.translate("random", 10),
        settings=(
            ("generator_channels", 4), ("generator_blocks", 1), ("discriminator_channels", (4, 8)), ("pool_size", 8),
            ("semantic", "logits"), ("semantic_again_weight", 10.0), ("batch_norm", "frozen"), *SLOW,
            ("discriminator_rate", 1e-4),
        ),
    ),
    "mix": Row(  # which labels are pasted changes what a micro-batch would be normalised by
        lambda: base.mix("random", 10),
        settings=(
            ("batch_norm", "frozen"), ("label_threshold", 0.3), ("weight_over", "batch"), ("mix_classes", "batch"),
            ("masked_weight", 1.0), ("mask_block", 8), ("feature_distance_weight", 0.1),
            ("feature_distance_classes", ("sky", "road", "car")), ("ignored_margins", (2, 4, 0, 0)),
            ("teacher_statistics", "batch"), *SLOW,
        ),
    ),
    "mix_two_resolutions": Row(
        lambda: base.mix("random", 10),
        settings=(("batch_norm", "frozen"), ("label_threshold", 0.3), ("detail_weight", 0.3), *SLOW),
        model=(("head", "deeplab"), ("detail_size", (32, 32))),
    ),
    "mix_self_labels": Row(
        lambda: base.mix("random", 10),
        splits=False,  # see below
        settings=(("weighting", "prototypes"), *SELF_LABELS),
    ),
    "denoise_self_labels": Row(
        lambda: base.denoise("random", 10),
        settings=(("label_threshold", 0.3), ("queue_contrast_weight", 1.0), ("cutmix_share", 0.5), *SELF_LABELS),
    ),
    "mix_contrast": Row(
        lambda: base.mix("random", 10),
        settings=(
            ("batch_norm", "frozen"), ("label_threshold", 0.3), ("contrast_weight", 1.0), ("contrast_with", "bank"),
            ("contrast_bank", 3), ("contrast_after", 0), ("contrast_channels", 8), ("contrast_temperature", 0.5), *SLOW,
        ),
    ),
    "mix_prototypes": Row(
        lambda: base.mix("random", 10),
        splits=False,  # as for "mix"
        settings=(
            ("weighting", "prototypes"), ("rare_class_sampling", True), ("rare_class_crop_pixels", 8),
            ("largest_class", 0.9), ("crop_tries", 3), ("margins_of", "image"), ("ignored_margins", (4, 8, 4, 4)),
            *SLOW,
        ),
    ),
}


def stage_config(name: str, **settings) -> ml_collections.ConfigDict:
    """Stage 'under_test' of a row, in float64 so that the order of sums does not show; with other settings."""
    c, row = tiny_config(), STAGES[name]
    c.model.dtype = "float64"
    c.model.update(dict(row.model))
    c.under_test = tiny_stage(row.section(), **dict(row.settings))
    if c.under_test.kind != "pretrain":
        c.under_test.jitter.brightness = 0.2
    c.update_from_flattened_dict(settings)
    return c


def setup_of(config: ml_collections.ConfigDict, axis_name: str | None) -> steps.Setup:
    """What the steps of stage 'under_test' need."""
    model, teacher = (tiny_model(config, axis_name) for _ in range(2))
    model = build.stage_network(model, config.under_test)
    return build.setup(config, "under_test", model=model, teacher=teacher, steps_per_epoch=10)


@functools.cache
def stage_in(name: str, count: int, **settings) -> tuple:
    """(mapped step, first state, teacher, mesh) of a row on `count` devices; its programs are compiled once."""
    mesh = devices.make_mesh(count)
    setup = setup_of(stage_config(name, **settings), devices.AXIS)
    step = functools.partial(build.train_step(setup.stage.kind), setup=setup)
    mapped = devices.map_step(step, mesh, "rbr", "rr")
    start = PROTOTYPES if uses_prototypes(name) else None
    create = jax.jit(functools.partial(build.create_state, setup), out_shardings=devices.replicated(mesh))
    state = create(build.stage_key(0, "under_test"), tiny_variables(setup.model, 0), start)
    if state.ema_params is not None:  # momentum encoder and network differ, as they do later on
        other, whole = tiny_variables(setup.model, 1), kinds.of(setup.stage).averages_statistics(setup.stage)
        state = state.replace(ema_params=other if whole else other["params"])
    teacher = tiny_variables(setup.teacher, 2) if has_teacher(setup.stage) else modes_of(setup.stage)
    place = devices.replicated(mesh)
    return mapped, jax.device_put(state, place), jax.device_put(teacher, place), mesh


def uses_prototypes(name: str) -> bool:
    stage = stage_config(name).under_test
    return kinds.of(stage).prototypes(stage)


def has_teacher(stage: ml_collections.ConfigDict) -> bool:
    """Whether the step is given another network: of a stage before it, or the one that it starts from."""
    return kinds.of(stage).teacher is not None or kinds.of(stage).frozen_start(stage)


def modes_of(stage: ml_collections.ConfigDict) -> np.ndarray | None:
    """Modes of patches, where a stage has any."""
    if not kinds.of(stage).patch_modes(stage):
        return None
    return np.random.default_rng(5).dirichlet(np.full(CLASSES, 0.3), (stage.patch_modes, 4)).reshape(-1, 4 * CLASSES)


def abstract_step(name: str, dtype: str) -> tuple:
    """The step of a row whose network computes in this type, and the shapes of its arguments."""
    mesh, setup = devices.make_mesh(1), setup_of(stage_config(name, **{"model.dtype": dtype}), devices.AXIS)
    mapped = devices.map_step(functools.partial(build.train_step(setup.stage.kind), setup=setup), mesh, "rbr", "rr")

    def arguments() -> tuple:
        networks = [setup.model, setup.teacher][: 2 if has_teacher(setup.stage) else 1]
        example = jnp.zeros((1, *CROP, 3))
        variables = [n.clone(axis_name=None).init(jax.random.key(0), example, train=False) for n in networks]
        start = PROTOTYPES if uses_prototypes(name) else None
        state = build.create_state(setup, jax.random.key(0), variables[0], start)
        return state, jax.tree.map(jnp.asarray, one_batch()), (*variables[1:], modes_of(setup.stage))[0]

    return mapped, *jax.eval_shape(arguments)


def make_batch(
    *, source_labels: bool = True, target_labels: bool = True, twice: bool = False, chosen: bool = False
) -> dict[str, Any]:
    """A global batch whose second half, what a second device gets, is almost without labels.

    Args:
      source_labels, target_labels: whether there are labels at all.
      twice: the second of two examples is the first again, in its views too, with other labels. So the statistics of
        every other example are those of all: each of two micro-batches is normalised as the whole batch.
      chosen: whether crops are chosen by what labels they hold: two views of an image are the same only if its labels
        are, so `twice` takes these, too.
    """
    source, target = blocks(BATCH, 1), blocks(BATCH, 2)
    slots = np.arange(BATCH, dtype=np.int32)
    if twice:
        slots = slots // 2 * 2
        source, target = ((images[slots], labels) for images, labels in (source, target))
        if chosen:
            source, target = ((images, labels[slots]) for images, labels in (source, target))
    for label in (source[1], target[1]):
        label[BATCH // 2 :, :-8] = IGNORE
        if twice and not chosen:
            label[1::2, :, :60] = IGNORE
    if not source_labels:
        source[1][:] = IGNORE
    soft = np.random.default_rng(3).dirichlet(np.full(CLASSES, 0.3), (BATCH, *GRID))
    if not target_labels:
        target[1][:] = IGNORE
        soft[:] = 1 / CLASSES
    soft[BATCH // 2 :, :-2] = 1 / CLASSES
    return {
        "source": {"image": source[0], "label": source[1], "rare_class": slots % 3},
        "target": {
            "image": target[0],
            "label": target[1],
            "hard_label": target[1],
            "soft_label": soft.astype(np.float16),
        },
        "slot": slots,
    }


@functools.cache
def one_batch(twice: bool = False, chosen: bool = False) -> dict:
    return make_batch(twice=twice, chosen=chosen)


def walk(name: str, count: int, batch: dict, number: int, change=lambda state: state, **settings) -> Iterator[tuple]:
    """The state before the first and after each of `number` steps, with the steps' metrics, on the devices."""
    step, state, teacher, mesh = stage_in(name, count, **settings)
    state, metrics = jax.device_put(change(state), devices.replicated(mesh)), {}  # placed alike, it compiles once
    yield state, metrics
    for _ in range(number):
        state, metrics = step(state, devices.put_batch(batch, mesh), teacher)
        assert metrics["skipped"] == 0
        yield state, metrics


def run(name: str, count: int, batch: dict, number: int = 1, change=lambda state: state, **settings) -> list:
    """What `walk` goes through, as NumPy arrays without the random key."""
    with jax.enable_x64(True):
        trail = list(walk(name, count, batch, number, change, **settings))
        return jax.device_get([(state.replace(key=None), metrics) for state, metrics in trail])


@functools.cache
def trail_of(name: str, count: int, number: int = 1, twice: bool = False, **settings) -> list:
    chosen = stage_config(name).under_test.get("crop_tries", 1) > 1
    return run(name, count, one_batch(twice, chosen), number, **settings)


# Comparisons


def assert_same(actual, expected, tolerance: float, floor: float = 1e-12) -> None:
    """Trees agree leaf by leaf, relative to the largest magnitude in each leaf, or to `floor` where that is nothing."""
    paths = jax.tree.leaves_with_path(expected)
    for (path, wanted), got in zip(paths, jax.tree.leaves(actual), strict=True):
        scale = np.abs(wanted).max() + floor
        error = np.abs(np.asarray(got, np.float64) - wanted).max() / scale
        assert error < tolerance, (jax.tree_util.keystr(path), error)


def moved(trail: list) -> list:
    """What each step added to parameters, statistics, momentum encoder, prototypes and discriminator."""
    pick = [
        {
            "params": s.params, "batch_stats": s.batch_stats, "ema_params": s.ema_params, "prototypes": s.prototypes,
            "discriminator": s.discriminator and s.discriminator.params,
        }
        for s, _ in trail
    ]  # fmt: skip
    return [
        jax.tree.map(lambda a, b: np.float64(b) - np.float64(a), *pair) for pair in zip(pick, pick[1:], strict=False)
    ]


def floats(tree) -> set:
    """Types of the arrays of real numbers in a tree of arrays or shapes."""
    return {leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)}
