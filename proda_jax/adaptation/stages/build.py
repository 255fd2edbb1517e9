"""From settings to what a step needs: networks, optimizers, and the state that a stage starts from."""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from proda_jax.adaptation import adversary, image_pool, optim, prototypes, statistics
from proda_jax.adaptation.stages import contrast, kinds, learnt_prototypes, translate
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.stages.kinds import KINDS
from proda_jax.adaptation.stages.sections import views_of
from proda_jax.adaptation.stages.setup import Setup
from proda_jax.adaptation.state import ContrastState, DiscriminatorState, TrainState, copy
from proda_jax.data.label_spaces import label_space
from proda_jax.models.backbones import BACKBONES, DEFAULT, OPTIONS, Backbone, backbone
from proda_jax.models.deeplab import NO_AUXILIARY, SegmentationNetwork
from proda_jax.models.discriminator import DISCRIMINATORS, Discriminator
from proda_jax.models.translator import PatchDiscriminator, Translator

# Where a stage's networks, labels and draws are from, and when it ends: its step is the same whatever they are.
AROUND_THE_STEP = (
    "init", "init_takes", "weights", "teacher", "labels_from", "random_as", "steps", "foundation_file",
    "foundation_input", "source_images", "window", "window_overlap",
)  # fmt: skip


@functools.cache  # so that it is the same function, see `devices.map_step`
def train_step(kind: str) -> Callable:
    """The train step of a kind of stage: (state, batch, teacher, *, setup) -> (state, metrics)."""
    return steps.unless_not_finite(KINDS[kind].module.train_step)


def network(
    model: ml_collections.ConfigDict, classes: int, *, extra_norm: bool, axis_name: str | None
) -> SegmentationNetwork:
    """The segmentation network of the configuration's `model` section.

    Args:
      model: that section.
      classes: number of classes.
      extra_norm: with the batch normalisation that a self-supervised backbone needs after it.
      axis_name: mapped axis over the devices, or None.
    """
    return SegmentationNetwork(
        classes=classes,
        backbone=backbone_of(model),
        extra_norm=extra_norm,
        head=model.head,
        auxiliary_head=model.get("auxiliary_head", NO_AUXILIARY),
        auxiliary_weight=model.get("auxiliary_weight", 0.0),
        detail_size=tuple(model.get("detail_size") or ()),
        # of cards; configurations have these in their stages
        projection_channels=model.get("projection_channels", 0),
        foundation_channels=model.get("foundation_channels", 0),
        dilations=tuple(model.dilations),
        head_channels=model.head_channels,
        feature_channels=model.feature_channels,
        dropout=model.dropout,
        input_mean=tuple(model.input_mean),
        input_std=tuple(model.input_std),
        initialisation=model.initialisation,
        batch_norm_epsilon=model.batch_norm_epsilon,
        axis_name=axis_name,
        recompute=model.recompute,
        dtype=jnp.dtype(model.dtype),
    )


def backbone_of(model: ml_collections.ConfigDict) -> Backbone:
    """The backbone of the configuration's `model` section, which older ones do not name."""
    options = {name: model.get(name) for name in OPTIONS}
    return backbone(model.get("backbone", DEFAULT), model.depths or (), model.width or 0, **options)


def stage_network(
    network: SegmentationNetwork, stage: ml_collections.ConfigDict
) -> SegmentationNetwork | Translator:
    """The network of a stage: the configuration's, with another head where the kind of stage says so, or generators.

    A second head is left out of stages that do not train it, and so is a second resolution.
    """
    if kinds.of(stage).translates:
        return Translator(stage.generator_channels, stage.generator_blocks, network.axis_name, network.dtype)
    kind, network = kinds.of(stage), network.clone(freeze_backbone=stage.get("freeze_backbone", False))
    if not kind.auxiliary_head(stage):
        network = network.clone(auxiliary_head=NO_AUXILIARY, auxiliary_weight=0.0)
    if not kind.two_resolutions:
        network = network.clone(detail_size=())
    if stage.get("contrast_weight") and stage.get("weights") is None:
        network = network.clone(projection_channels=stage.contrast_channels)
    if stage.get("foundation") and stage.get("weights") is None:
        network = network.clone(foundation_channels=BACKBONES[stage.foundation].levels[-1].channels)
    return network if kind.head is None else network.clone(extra_norm=False, **kind.head(stage))


def stage_key(seed: int, name: str) -> jax.Array:
    """The random key of (seed, stage)."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)


def order_seed(seed: int, name: str) -> int:
    """Seed of the input order of (seed, stage); even, so that its successor is free for the second data set."""
    return 2 * (zlib.crc32(f"{seed}/{name}".encode()) & 0x3FFFFFFF)


def batch_size(config: ml_collections.ConfigDict, name: str) -> int:
    """Images of each domain in a step of a stage, over all devices."""
    return config[name].get("batch_size") or config.batch_size


def takes_backbone(config: ml_collections.ConfigDict, name: str) -> bool:
    """Whether a stage that starts from an earlier one takes its backbone alone."""
    stage = config[name]
    whole = kinds.of(stage).segments and kinds.of(config[stage.init]).segments
    return not whole or ("init_takes" in stage and stage.init_takes == "backbone")


def random_name(config: ml_collections.ConfigDict, name: str) -> str:
    """The name of a stage in `stage_key` and `order_seed`: its own, or that of another, whose draws it shares."""
    return config[name].get("random_as") or name


def setup(
    config: ml_collections.ConfigDict,
    name: str,
    *,
    model: SegmentationNetwork,
    teacher: SegmentationNetwork | None,
    steps_per_epoch: int,
) -> Setup:
    """What the steps of stage `name` need.

    Args:
      config: the whole configuration.
      name: the stage, one of `config.stages`.
      model: the trained network; its `axis_name` is the step's.
      teacher: network of the stage that this one learns from, if any.
      steps_per_epoch: steps in which the target's training images are seen once.
    """
    stage = {key: value for key, value in config[name].items() if key not in AROUND_THE_STEP}
    if "feature_distance_classes" in stage:  # a step knows classes by their places
        space = label_space(config.data.label_space, config.data.classes, config.data.colors)
        stage["feature_distance_classes"] = tuple(map(space.classes.index, stage["feature_distance_classes"]))
    sections = map(ml_collections.FrozenConfigDict, (stage, views_of(config, name)))
    scan_passes = config.get("scan_passes", True)
    return _setup(*sections, model, teacher, config.micro_batches, scan_passes, steps_per_epoch)


@functools.lru_cache(maxsize=64)
def _setup(
    stage: ml_collections.FrozenConfigDict, views: ml_collections.FrozenConfigDict, model: SegmentationNetwork,
    teacher: SegmentationNetwork | None, micro_batches: int, scan_passes: bool, steps_per_epoch: int,
) -> Setup:  # fmt: skip
    """The same one for the same settings: optimizers are functions, which are equal to themselves alone."""
    adversarial = kinds.of(stage).discriminator(stage)
    if kinds.of(stage).translates:
        optimizer, of_critics = (
            optim.plain_optimizer(stage, rate, steps_per_epoch) for rate in (stage.head_rate, stage.discriminator_rate)
        )
        discriminator = PatchDiscriminator(tuple(stage.discriminator_channels), model.dtype)
    else:
        optimizer = optim.network_optimizer(stage, model.backbone, steps_per_epoch)
        of_critics = optim.discriminator_optimizer(stage, steps_per_epoch) if adversarial else None
        discriminator = discriminator_of(stage, model) if adversarial else None
    return Setup(
        model=model,
        optimizer=optimizer,
        stage=stage,
        views=views,
        axis_name=model.axis_name,
        micro_batches=micro_batches,
        scan_passes=scan_passes,
        teacher=teacher,
        discriminator=discriminator,
        discriminator_optimizer=of_critics,
        prototype_optimizer=(
            optim.plain_optimizer(stage, stage.head_rate, steps_per_epoch) if kinds.learns_prototypes(stage) else None
        ),
    )


def discriminator_of(stage: ml_collections.FrozenConfigDict, model: SegmentationNetwork) -> Discriminator:
    """The layers of a stage's discriminators."""
    outputs = 2 * model.classes if stage.gan == adversary.CLASSES else 1
    return DISCRIMINATORS[stage.discriminator](tuple(stage.discriminator_channels), model.dtype, outputs)


@functools.lru_cache(maxsize=64)  # of several seeds, which have the same
def _output_shapes(model: SegmentationNetwork, size: tuple[int, int]) -> Any:
    """Shapes of what the network makes of an image of this height and width."""
    network, image = model.clone(axis_name=None), jnp.zeros((1, *size, 3))
    return jax.eval_shape(lambda key: network.init_with_output(key, image, train=False)[0], jax.random.key(0))


def begin_contrast(setup: Setup) -> ContrastState | None:
    """What a stage that contrasts features with classes knows of them before its first step."""
    stage = setup.stage
    if not stage.get("contrast_weight"):
        return None
    batches = stage.contrast_bank if stage.contrast_with == contrast.BANK else 0
    return contrast.begin(setup.model.classes, stage.contrast_channels, batches)


def create_state(
    setup: Setup, key: jax.Array, variables: Any, start: prototypes.Prototypes | None = None,
    shares: jax.Array | None = None, foundation: jax.Array | None = None,
) -> TrainState:  # fmt: skip
    """The state of a stage before its first step.

    Args:
      setup: of the stage.
      key: of (seed, stage), see `stage_key`.
      variables: {'params', 'batch_stats'} that the network starts from.
      start: initial prototypes (Equation 5) where the stage uses them; the momentum encoder, or mean teacher, starts as
        a copy of the network (Algorithm 1, lines 3 and 4).
      shares: of the classes, where prototypes are learnt; None: all alike.
      foundation: class prototypes of another network, [classes, channels], where the stage has some.
    """
    discriminator, pool = None, None
    if kinds.of(setup.stage).translates:
        params = translate.discriminators(setup, key)
        discriminator = DiscriminatorState(params, setup.discriminator_optimizer.init(params))
        pool = image_pool.empty(setup.stage.pool_size, setup.crop_size) if setup.stage.pool_size else None
    elif setup.discriminator is not None:
        output = _output_shapes(setup.model, setup.crop_size)
        params = adversary.initialise(setup.discriminator, key, setup.stage, output, setup.crop_size)
        discriminator = DiscriminatorState(params, setup.discriminator_optimizer.init(params))
    variables, kind = copy(variables), kinds.of(setup.stage)
    averaged = kind.momentum_encoder(setup.stage) and (start is not None or not kind.prototypes(setup.stage))
    teacher = variables if kind.averages_statistics(setup.stage) else variables["params"]
    learnt = None
    if start is not None and setup.prototype_optimizer is not None:
        shares = jnp.full(setup.model.classes, 1 / setup.model.classes) if shares is None else shares
        learnt = learnt_prototypes.begin(start, shares, setup.stage.self_label_queue, setup.prototype_optimizer)
    return TrainState(
        step=jnp.int32(0),
        key=jnp.copy(key),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=jax.jit(setup.optimizer.init)(variables["params"]),  # as one program
        skipped=jnp.zeros(2, jnp.int32),
        ema_params=copy(teacher) if averaged else None,
        prototypes=copy(start) if start is not None else None,
        recomputed=copy(variables["batch_stats"]) if setup.stage.get("statistics") in statistics.AFTERWARDS else None,
        discriminator=discriminator,
        pool=pool,
        class_presence=jnp.ones(setup.model.classes) if kind.weighs_classes(setup.stage) else None,
        learnt_prototypes=copy(learnt),
        contrast=begin_contrast(setup),
        foundation=None if foundation is None else jnp.asarray(foundation, jnp.float32),
    )
