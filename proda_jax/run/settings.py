"""Refuses impossible settings before anything is computed."""

from collections import ChainMap
from collections.abc import Mapping

import jax
import ml_collections
import numpy as np
from etils import epath

from proda_jax.adaptation import adversary, optim, statistics, translation
from proda_jax.adaptation.losses import GAN_LOSSES, REDUCTIONS, REGULARISERS
from proda_jax.adaptation.selectors import CLASS_SELECTORS, SELECTORS
from proda_jax.adaptation.stages import kinds
from proda_jax.adaptation.stages.build import backbone_of, takes_backbone, views_of
from proda_jax.adaptation.stages.kinds import KINDS
from proda_jax.adaptation.views import fourier
from proda_jax.data.checks import NONE, ROLES, check_data, check_label_space, data_sets, first_of
from proda_jax.data.label_spaces import label_space
from proda_jax.models import backbones
from proda_jax.models.backbones import BACKBONES, OPTIONS, Backbone
from proda_jax.models.deeplab import AUXILIARY, LOWER, NO_AUXILIARY, PARALLEL
from proda_jax.models.discriminator import DISCRIMINATORS
from proda_jax.models.heads import HEADS
from proda_jax.models.translator import SMALLEST
from proda_jax.models.weights import foreign, published
from proda_jax.run import idle
from proda_jax.run.evaluate import IMAGE_SIZE, LABELS, scored_at
from proda_jax.system.files import cache_folder
from proda_jax.system.refusals import choose, refuse

TOP_LEVEL = (
    "task", "init_from", "seed", "stages", "batch_size", "micro_batches", "log_every", "summaries", "save_every",
    "save_minutes", "max_skipped", "evaluate_every", "handover", "evaluate_at", "evaluate_batch_size", "data", "model",
    "views", "snapshots", "study",
)  # fmt: skip
COUNTS = (
    "batch_size", "micro_batches", "log_every", "save_every", "max_skipped", "evaluate_every", "evaluate_batch_size",
)  # fmt: skip
OF_TWO_HEADS = (
    "auxiliary_ce_weight", "auxiliary_adversarial_weight", "auxiliary_entropy_weight", "local_weight", "memory_weight",
    "rectified",
)  # fmt: skip
LARGEST = float(np.finfo(np.float32).max)  # number that the network computes with
WEIGHTS = ("random", "imagenet", "self_supervised")
CHOICES = {
    "batch_norm": ("batch", "affine_frozen", "frozen"),
    "schedule_warmup_to": ("schedule", "rate"),
    "statistics": statistics.CHOICES,
    "schedule": optim.SCHEDULES,
    "optimizer": optim.OPTIMIZERS,
    "label_selector": ChainMap(CLASS_SELECTORS, SELECTORS),
    "backbone_steps": ("once", "released"),
    "reduction": REDUCTIONS,
    "gan": (*GAN_LOSSES, adversary.CLASSES),
    "adversarial_on": adversary.MAPS,
    "discriminated": ("network", "heads"),
    "discriminator": DISCRIMINATORS,
    "scores_at": ("grid", "image"),
    "weighting": ("prototypes", "network", "none"),
    "label_source": ("fixed", "moving"),
    "soft_label_interpolation": ("probabilities", "logits"),
    "consistency_over_classes": ("mean", "sum"),
    "regulariser": REGULARISERS,
    "regulariser_over": ("all", "labels"),
    "mean_over": ("domain", "both"),
    "fourier_window": fourier.WINDOWS,
    "anchor_gradient": ("mean", "released"),
    "semantic": translation.SEMANTIC,
    "ema_view": ("image", "crop"),
    "ema_crop": ("released", "exact"),
    "ema_mode": ("train", "eval"),
    "prototype_update": ("in_turn", "batch"),
    "unseen_prototypes": ("replace", "released"),
    "prototype_init": ("target", "source"),
    "prototype_init_by": ("vectors", "pixels"),
    "target_view": ("strong", "weak"),
    "distillation_form": ("equation12", "equation12_per_pixel", "released"),
    "teacher_statistics": ("averaged", "network", "batch"),
    "weight_over": ("image", "batch"),
    "margins_of": ("crop", "image"),
    "mix_classes": ("image", "batch"),
}
POSITIVE = (
    "schedule_steps", "schedule_factor", "temperature", "backbone_rate", "head_rate", "discriminator_rate",
    "contrast_temperature", "prototype_min_pixels", "prototype_init_min_pixels", "prototype_init_limit",
    "prototype_init_passes", "steps", "layer_decay", "statistics_images", "rare_class_temperature", "crop_tries",
    "mask_block", "label_every", "label_portion", "label_entropy", "logit_temperature", "discriminator_weight",
    "rare_weight", "hard_share", "generator_channels", "patch_channels",
)  # fmt: skip
SHARES = (
    "momentum", "schedule_warmup_start", "grey", "ema_momentum", "prototype_momentum", "label_threshold", "mask_ratio",
    "feature_distance_share", "fourier_beta", "largest_class", "label_portion", "soft_label_limit", "hard_share",
    "window_overlap",
)  # fmt: skip
NOT_NEGATIVE = (
    "weight_decay", "adversarial_weight", "ce_weight", "rce_weight", "consistency_weight", "regulariser_weight",
    "distillation_weight", "schedule_power", "schedule_warmup", "mixed_weight", "masked_weight",
    "anchor_margin", "anchor_weight", "confident_weight", "distance_weight", "feature_distance_weight", "label_weight",
    "rare_class_min_pixels", "rare_class_crop_pixels", "auxiliary_ce_weight", "auxiliary_adversarial_weight",
    "local_weight", "local_floor", "local_after", "damping_steps", "weight_divergence", "entropy_weight",
    "auxiliary_entropy_weight", "focus", "source_weight", "memory_weight", "memory_after", "rare_pixels",
    "gradient_penalty", "cycle_weight", "identity_weight", "semantic_weight", "semantic_again_weight", "pool_size",
    "generator_blocks", "patch_modes", "patch_weight", "patch_adversarial_weight",
)  # fmt: skip


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def check(config: ml_collections.ConfigDict) -> None:
    """Checks a configuration.

    Raises:
      ValueError: the first setting that cannot work, what was expected, and the nearest choice.
    """
    sections = check_sections(config)
    if config.init_from is not None:
        refuse("init_from", config.init_from, "None, except with --mode=evaluate, predict, export; to start from the "
               "network in a file, name it as config.<stage>.weights of the stage it stands for")  # fmt: skip
    check_data(config)
    choose("handover", config.handover, ("last", "best"))
    choose("evaluate_at", scored_at(config), (LABELS, IMAGE_SIZE))
    if config.handover == "best" and not data_sets(config.data, "validation"):
        refuse("handover", "best", "'last', as there are no validation images to choose by")
    if not config.save_minutes > 0:
        refuse("save_minutes", config.save_minutes, "a positive number")
    for name in COUNTS:
        if config[name] < 1:
            refuse(name, config[name], "at least 1")
    check_model(config.model)
    idle.check_model(config.model)
    check_views(config, config.views)
    if not 0 <= config.seed < 2**31:
        refuse("seed", config.seed, "0 to 2147483647")
    for name, number in config.snapshots.items():
        if number < 0:
            refuse(f"snapshots.{name}", number, "at least 0")
    check_finite(config)
    if not config.stages:
        refuse("stages", config.stages, "names of stages to run")
    for i, name in enumerate(config.stages):
        choose("stages", name, sections)
        if name in config.stages[:i]:
            refuse("stages", tuple(config.stages), f"each stage once, not {name!r} twice")
        check_stage(config, name, earlier=config.stages[:i])
    trains = any(kinds.of(config[name]).auxiliary_head(config[name]) for name in config.stages if name in sections)
    if config.model.auxiliary_head != NO_AUXILIARY and not trains:
        refuse("model.auxiliary_head", config.model.auxiliary_head, "'none', as no stage trains a second head")


def check_finite(section: ml_collections.ConfigDict, prefix: str = "") -> None:
    """Refuses numbers that are none, or infinite in float32."""
    for name, value in section.items():
        if isinstance(value, ml_collections.ConfigDict):
            check_finite(value, f"{prefix}{name}.")
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not abs(number) <= LARGEST for number in numbers):
            refuse(f"{prefix}{name}", value, "finite numbers")


def check_sections(config: ml_collections.ConfigDict) -> list[str]:
    """Names of the stages that are described; refuses misspelt settings beside them."""
    sections = [name for name, s in config.items() if isinstance(s, ml_collections.ConfigDict) and "kind" in s]
    for name in config:
        choose(name, name, (*TOP_LEVEL, *sections))
    return sections


def check_evaluation(config: ml_collections.ConfigDict) -> None:
    """Checks what evaluating a network needs of a configuration; what training needs may be missing."""
    check_sections(config)
    check_data(config)
    choose("evaluate_at", scored_at(config), (LABELS, IMAGE_SIZE))
    check_model(config.model)
    if config.evaluate_batch_size < 1:
        refuse("evaluate_batch_size", config.evaluate_batch_size, "at least 1")
    if not data_sets(config.data, "validation"):
        refuse("data.validation.name", NONE, "labelled images to evaluate on")
    if config.init_from is not None:
        check_file("init_from", config.init_from)


def check_network(config: ml_collections.ConfigDict) -> None:
    """Checks what describes a network: its sizes and classes."""
    check_sections(config)
    check_label_space(config.data)
    check_model(config.model)


def check_model(model: ml_collections.ConfigDict) -> None:
    choose("model.backbone", model.backbone, BACKBONES)
    choose("model.head", model.head, (name for name, head in HEADS.items() if head.segments))
    choose("model.auxiliary_head", model.auxiliary_head, AUXILIARY)
    if not model.auxiliary_weight >= 0:
        refuse("model.auxiliary_weight", model.auxiliary_weight, "zero or more")
    choose("model.initialisation", model.initialisation, ("released", "he", "pytorch"))
    choose("model.batch_norm_epsilon", model.batch_norm_epsilon, ("added", "clamped"))
    choose("model.dtype", model.dtype, ("float32", "bfloat16"))
    for name in OPTIONS:
        if model[name] is not None and name not in BACKBONES[model.backbone].options:
            refuse(f"model.{name}", model[name], f"None, as backbone {model.backbone!r} has no such setting")
    for part in (backbone_of(model), HEADS[model.head]):
        if refused := part.check_sizes() if isinstance(part, Backbone) else part.check_sizes(model):
            refuse(f"model.{refused[0]}", model[refused[0]], refused[1])
    if model.auxiliary_head == LOWER and (HEADS[model.head].takes_levels or len(backbone_of(model).levels) < 2):
        refuse("model.auxiliary_head", LOWER, f"'none' or 'parallel', as head {model.head!r} takes all maps of "
               f"backbone {model.backbone!r}, or there is but one")  # fmt: skip
    if model.weights_input not in ("", *foreign.INPUTS):
        foreign.convention(model.weights_input)
    if not model.dilations or min(model.dilations) < 1:
        refuse("model.dilations", tuple(model.dilations), "whole numbers from 1, such as (6, 12, 18, 24)")
    if not 0 <= model.dropout < 1:
        refuse("model.dropout", model.dropout, "a share below 1")
    if len(model.input_mean) != 3:
        refuse("model.input_mean", tuple(model.input_mean), "three numbers, of red, green and blue")
    if len(model.input_std) != 3 or not min(model.input_std) > 0:
        refuse("model.input_std", tuple(model.input_std), "three positive numbers, of red, green and blue")


def check_views(config: ml_collections.ConfigDict, views: ml_collections.ConfigDict) -> None:
    """Checks the section `views`, or what a stage makes of it."""
    for name, size in (("views.crop_size", views.crop_size), *(
        (f"{setting}.image_size", one.image_size) for role in ROLES
        for setting, one in data_sets(config.data, role).items()
    )):  # fmt: skip
        if len(size) != 2 or min(size) < 32:
            refuse(name, tuple(size), "(height, width), each at least 32 pixels")
    if views.target_stride not in (1, 2, 4, 8):
        refuse("views.target_stride", views.target_stride, "1, 2, 4 (released) or 8 pixels")
    if any(size % views.target_stride for size in views.crop_size):
        stride = views.target_stride
        refuse("views.crop_size", tuple(views.crop_size), f"multiples of views.target_stride, which is {stride}")
    for name, least in (("base_width", 0), ("strong_operations", 0)):
        if views[name] is not None and views[name] < least:
            refuse(f"views.{name}", views[name], f"at least {least}")
    if len(views.scale) != 2 or not 0 < views.scale[0] <= views.scale[1]:
        refuse("views.scale", tuple(views.scale), "(smallest, largest), positive")
    if not 0 <= views.cutout_fraction <= 1:
        refuse("views.cutout_fraction", views.cutout_fraction, "a share of the crop's shorter side, 0 to 1")


def check_stage(config: ml_collections.ConfigDict, name: str, earlier: tuple[str, ...]) -> None:
    """Checks one stage's section; `earlier` are the stages that run before it."""
    stage = config[name]
    choose(f"{name}.kind", stage.kind, KINDS)
    kind = kinds.of(stage)
    if stage.weights is not None and kind.segments:
        check_file(f"{name}.weights", stage.weights)
        return
    for key, choices in (CHOICES | dict(kind.choices)).items():
        if key in stage:
            choose(f"{name}.{key}", stage[key], choices)
    for key in POSITIVE:
        if key in stage and not stage[key] > 0:
            refuse(f"{name}.{key}", stage[key], "a positive number")
    if "label_scales" in stage and not (stage.label_scales and min(stage.label_scales) > 0):
        refuse(f"{name}.label_scales", tuple(stage.label_scales), "positive numbers, such as (1.0,)")
    shorter = min(first_of(config.data, "target").image_size)
    smallest = min(shorter * scale for scale in stage.get("label_scales", (1.0,)))
    if smallest < 32:
        refuse(f"{name}.label_scales", tuple(stage.label_scales), "scales that leave target images at least 32 pixels")
    if "discriminator_channels" in stage and not min(stage.discriminator_channels, default=0) > 0:
        refuse(f"{name}.discriminator_channels", tuple(stage.discriminator_channels), "whole numbers from 1")
    if "soft_label_stride" in stage and stage.soft_label_stride not in (1, 2, 4, 8):
        refuse(f"{name}.soft_label_stride", stage.soft_label_stride, "1, 2, 4 or 8 (released) pixels")
    for key in SHARES:
        if key in stage and not 0 <= stage[key] <= 1:
            refuse(f"{name}.{key}", stage[key], "a share, 0 to 1")
    for key in NOT_NEGATIVE:
        if key in stage and not stage[key] >= 0:
            refuse(f"{name}.{key}", stage[key], "zero or more")
    for key in stage.get("views", {}):
        choose(f"{name}.views.{key}", key, config.views)
    check_views(config, views_of(config, name))
    crop = views_of(config, name).crop_size
    if stage.fourier_beta and not fourier.WINDOWS[stage.fourier_window](crop, stage.fourier_beta).any():
        refuse(f"{name}.fourier_beta", stage.fourier_beta, f"at least {1 / min(crop):.3g}, one frequency of the crop")
    for factor, value in stage.jitter.items():
        if not 0 <= value < 1:
            refuse(f"{name}.jitter.{factor}", value, "from 0 to below 1")
    choose(f"{name}.init", stage.init, (*WEIGHTS, *(e for e in earlier if not kinds.of(config[e]).translates)))
    if stage.get("init_takes") is not None:
        choose(f"{name}.init_takes", stage.init_takes, ("backbone",))
    labelling = [other for other in earlier if kinds.of(config[other]).segments]  # networks that label images
    if kind.prototypes(stage) and stage.init not in labelling:
        refuse(f"{name}.init", stage.init, "an earlier stage, whose features the prototypes are means of")
    if not kind.segments:
        check_unscored(config, name)
    if kind.translates:
        check_translation(config, name)
    if stage.get("source_images") is not None:
        choose(f"{name}.source_images", stage.source_images, (e for e in earlier if kinds.of(config[e]).translates))
        if config.data.get("labelled_target") is not None:
            refuse(f"{name}.source_images", stage.source_images, "None, as data.labelled_target has labelled images "
                   "that look like the target already")  # fmt: skip
    if "strong" in stage:
        check_mixing(config, name)
    check_labelled(config, name)
    if stage.get("label_selector") in CLASS_SELECTORS and stage.get("soft_label_interpolation") == "logits":
        refuse(f"{name}.soft_label_interpolation", "logits",
               "'probabilities', as those are zero where a selector by classes keeps no label")  # fmt: skip
    if stage.get("source_weight") == 0 and any(stage.jitter.values()):
        refuse(f"{name}.jitter", stage.jitter.to_dict(), "zeros, as source_weight is 0: the source is left out")
    if stage.get("patch_modes"):
        check_patches(config, name)
    if "auxiliary_ce_weight" in stage:
        check_heads(config, name)
    if "adversarial_on" in stage:
        check_adversarial(config, name)
    check_optimizer(stage, name)
    check_statistics(stage, name)
    idle.check(config, name)
    whole = stage.init in labelling and not takes_backbone(config, name)
    if whole and has_extra_norm(config, stage.init) and not has_extra_norm(config, name):
        refuse(f"{name}.extra_norm", stage.extra_norm, f"True, as stage {stage.init!r}, which it starts from, has it")
    for key in (kind.teacher, kind.pseudo_labels and kind.pseudo_labels.made_by):
        if key:
            choose(f"{name}.{key}", stage[key], labelling)
    if stage.init in ("imagenet", "self_supervised"):
        check_weights(config, name, stage.init)


def check_labelled(config: ml_collections.ConfigDict, name: str) -> None:
    """Refuses a stage that needs labelled images where there are none, or reads labels that are not listed."""
    stage, listed = config[name], config.data.get("labelled_target") is not None
    if listed and kinds.of(stage).target(stage) == "labels":
        refuse(f"{name}.target_labels", True, "False, as data.labelled_target says which labels of the target are read")
    if listed or data_sets(config.data, "source"):
        return
    for setting in kinds.of(stage).of_labelled(stage):
        able = " and ".join(repr(kind) for kind, row in KINDS.items() if row.of_labelled({}) == ())
        wanting = f"stage {name!r}, which is {stage.kind!r}: only {able} do without" if setting == "kind" else (
            f"{name}.{setting} = {stage[setting]!r}")  # fmt: skip
        refuse("data.source.name", NONE, f"labelled images, from a source or data.labelled_target, for {wanting}")


def check_heads(config: ml_collections.ConfigDict, name: str) -> None:
    """Checks that the network has the heads that a stage's terms are of, and that the stage trains all that it has."""
    stage, heads = config[name], config.model.auxiliary_head
    for key in OF_TWO_HEADS:
        if stage.get(key) and heads == NO_AUXILIARY:
            refuse(f"{name}.{key}", stage[key], f"{type(stage[key])()!r}, as config.model.auxiliary_head is 'none'")
    if stage.get("weight_divergence") and heads != PARALLEL:
        refuse(f"{name}.weight_divergence", stage.weight_divergence, "0.0 but of model.auxiliary_head 'parallel'")
    if stage.get("discriminated") == "heads" and heads == NO_AUXILIARY:
        refuse(f"{name}.discriminated", "heads", "'network', as config.model.auxiliary_head is 'none'")
    trains = kinds.of(stage).auxiliary_head(stage) or stage.get("rectified")
    if heads != NO_AUXILIARY and trains and not stage.auxiliary_ce_weight:
        refuse(f"{name}.auxiliary_ce_weight", 0.0, f"above 0, as config.model.auxiliary_head is {heads!r}")


def check_adversarial(config: ml_collections.ConfigDict, name: str) -> None:
    """Checks that an adversarial stage has a term for the target, and that its terms go together."""
    stage = config[name]
    of_target = ("adversarial_weight", "entropy_weight", "auxiliary_entropy_weight", "label_weight")
    if not any(stage[key] for key in of_target):
        refuse(f"{name}.adversarial_weight", 0.0, "above 0, or entropy_weight: the stage learns nothing of the target")
    if stage.adversarial_on == "features" and stage.auxiliary_adversarial_weight:
        refuse(f"{name}.auxiliary_adversarial_weight", stage.auxiliary_adversarial_weight, "0.0 on 'features'")
    if stage.gan == adversary.CLASSES and stage.local_weight:
        refuse(f"{name}.local_weight", stage.local_weight, f"0.0 of gan {adversary.CLASSES!r}")
    if 0 < stage.focus < 1:
        refuse(f"{name}.focus", stage.focus, "0, or at least 1, as below it right labels have no gradient")


def check_mixing(config: ml_collections.ConfigDict, name: str) -> None:
    """Checks what a stage has that learns from mixed images."""
    stage, crop = config[name], views_of(config, name).crop_size
    for key, value in stage.strong.items():
        if key == "blur_sigma":
            if len(value) != 2 or not 0 < value[0] <= value[1]:
                refuse(f"{name}.strong.blur_sigma", tuple(value), "(smallest, largest), positive")
        elif not 0 <= value <= 1:
            refuse(f"{name}.strong.{key}", value, "a share, 0 to 1")
    margins = stage.ignored_margins
    if len(margins) != 4 or min(margins) < 0:
        refuse(f"{name}.ignored_margins", tuple(margins), "(top, bottom, left, right), pixels from 0")
    size = crop if stage.margins_of == "crop" else first_of(config.data, "target").image_size
    if margins[0] + margins[1] >= size[0] or margins[2] + margins[3] >= size[1]:
        refuse(f"{name}.ignored_margins", tuple(margins), f"less than the {stage.margins_of}, {tuple(size)}")
    classes = label_space(config.data.label_space, config.data.classes, config.data.colors).classes
    for known in stage.feature_distance_classes:
        choose(f"{name}.feature_distance_classes", known, classes)
    if stage.feature_distance_weight and stage.freeze_backbone:
        refuse(f"{name}.feature_distance_weight", stage.feature_distance_weight, "0, as freeze_backbone is True")
    if stage.feature_distance_weight and stage.init == "random":
        refuse(f"{name}.feature_distance_weight", stage.feature_distance_weight, "0 from a network that knows nothing")


def check_optimizer(stage: ml_collections.ConfigDict, name: str) -> None:
    """Refuses settings of one optimizer that another would leave alone."""
    if not (len(stage.adam_betas) == 2 and all(0 <= beta < 1 for beta in stage.adam_betas)):
        refuse(f"{name}.adam_betas", tuple(stage.adam_betas), "two shares below 1, such as (0.9, 0.999)")
    if stage.backbone_steps == "released" and (stage.optimizer != "sgd" or stage.layer_decay != 1.0):
        refuse(f"{name}.backbone_steps", "released", "'once', except with optimizer 'sgd' and layer_decay 1")
    if stage.layer_decay > 1.0:
        refuse(f"{name}.layer_decay", stage.layer_decay, "at most 1, at which all layers have the same rate")


def check_statistics(stage: ml_collections.ConfigDict, name: str) -> None:
    """Refuses a choice of statistics that nothing could follow."""
    if stage.statistics == "all":
        return
    if stage.batch_norm == "frozen":
        refuse(f"{name}.statistics", stage.statistics, f"'all', as {name}.batch_norm is 'frozen', which moves none")
    if stage.statistics == "target" and kinds.of(stage).target(stage) is None:
        refuse(f"{name}.statistics", "target", "'all' or 'recomputed', as this stage has no passes of target images")


def check_translation(config: ml_collections.ConfigDict, name: str) -> None:
    """Checks what a stage has that translates images."""
    stage, crop = config[name], views_of(config, name).crop_size
    if stage.init != "random":
        refuse(f"{name}.init", stage.init, "'random', as generators start anew")
    if config.data.get("labelled_target") is not None:
        refuse("data.labelled_target", config.data.labelled_target, f"None, as stage {name!r} translates the source")
    if any(side % SMALLEST for side in crop):
        refuse("views.crop_size", tuple(crop), f"multiples of {SMALLEST}, as stage {name!r} translates such crops")
    if stage.window and (len(stage.window) != 2 or min(stage.window) < 32 or any(s % SMALLEST for s in stage.window)):
        refuse(f"{name}.window", tuple(stage.window), f"(height, width), multiples of {SMALLEST} from 32, or ()")
    if not stage.window_overlap < 1:
        refuse(f"{name}.window_overlap", stage.window_overlap, "a share below 1")
    if 0 < stage.pool_size < (stage.batch_size or config.batch_size):
        refuse(f"{name}.pool_size", stage.pool_size, "0, or at least the number of images in a step")


def check_patches(config: ml_collections.ConfigDict, name: str) -> None:
    """Checks that patches fill crops."""
    stage, crop = config[name], views_of(config, name).crop_size
    size = stage.patch_size
    if len(size) != 2 or min(size) < 2 or any(own % 2 or side % own for own, side in zip(size, crop, strict=True)):
        refuse(f"{name}.patch_size", tuple(size), f"(height, width), even, of which views.crop_size, {tuple(crop)}, is "
               "a multiple")  # fmt: skip
    if stage.gan == adversary.CLASSES:
        refuse(f"{name}.patch_modes", stage.patch_modes, "0 beside gan 'classes'")


def check_unscored(config: ml_collections.ConfigDict, name: str) -> None:
    """Checks what stages have whose networks label nothing, and what they cannot do."""
    stage = config[name]
    if stage.freeze_backbone:
        refuse(f"{name}.freeze_backbone", True, "False, as the backbone is all that pretraining is for")
    for key in ("batch_size", "projection_channels", "hidden_channels"):
        if stage.get(key) is not None and stage[key] < 1:
            refuse(f"{name}.{key}", stage[key], "at least 1")
    if config.handover == "best":
        refuse("handover", "best", f"'last', as stage {name!r} has no scores to choose by")


def has_extra_norm(config: ml_collections.ConfigDict, name: str, taken: Mapping[str, bool] | None = None) -> bool:
    """Whether a stage's network has the extra normalisation: as it says, otherwise as the stage it starts from.

    Args:
      config: the whole configuration.
      name: the stage.
      taken: the answer for stages whose network was taken from a file, as far as it is known.
    """
    stage = config[name]
    if not kinds.of(stage).segments:
        return False
    if stage.weights is not None:
        return (taken or {}).get(name, False)
    inherited = stage.init in config.stages and has_extra_norm(config, stage.init, taken)
    return stage.get("extra_norm", inherited)


def check_weights(config: ml_collections.ConfigDict, name: str, init: str) -> None:
    model, path = config.model, config.model[f"{init}_weights"]
    sizes = (model.backbone, model.depths or (), model.width or 0)
    if path is None and init == "imagenet" and backbones.published(*sizes):
        published.path(*sizes)  # says so, where its package is not installed
        return
    if path is None:
        refuse(
            f"model.{init}_weights",
            path,
            f"a file with the backbone's weights, which stage {name!r} starts from; without such weights set "
            f"--config.{name}.init=random or the name of an earlier stage",
        )
    check_file(f"model.{init}_weights", path)


def check_file(setting: str, path: str) -> None:
    """Refuses a file of weights that is not there; that of a TensorFlow checkpoint is named without its ending."""
    if not any(epath.Path(name).exists() for name in (path, f"{path}.index")):
        refuse(setting, path, "a file that exists")
