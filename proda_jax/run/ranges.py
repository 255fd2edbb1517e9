"""Refuses settings that are impossible by themselves: names that are none, numbers out of range.

The first of two looks, for which JAX is not imported, so that a slip of the pen is told at once; `settings.py` has the
other one, which asks networks and tables of functions.
"""

from typing import Any

import ml_collections
import numpy as np
from etils import epath

from proda_jax.adaptation.stages import kinds
from proda_jax.adaptation.stages.kinds import KINDS
from proda_jax.adaptation.stages.sections import views_of
from proda_jax.data.checks import ROLES, check_data, data_sets, first_of
from proda_jax.data.checks import check_given as check_given  # for the command line
from proda_jax.system.refusals import choose, refuse

TOP_LEVEL = (
    "task", "init_from", "seed", "stages", "batch_size", "micro_batches", "scan_passes", "log_every", "summaries",
    "save_every", "save_minutes", "compile_ahead", "max_skipped", "evaluate_every", "handover", "evaluate_at",
    "evaluate_batch_size", "data", "model", "views", "snapshots", "study",
)  # fmt: skip
COUNTS = (
    "batch_size", "micro_batches", "log_every", "save_every", "max_skipped", "evaluate_every", "evaluate_batch_size",
)  # fmt: skip
LARGEST = float(np.finfo(np.float32).max)  # number that the network computes with
WEIGHTS = ("random", "imagenet", "self_supervised")
CHOICES = {
    "batch_norm": ("batch", "affine_frozen", "frozen"),
    "schedule_warmup_to": ("schedule", "rate"),
    "backbone_steps": ("once", "released"),
    "discriminated": ("network", "heads"),
    "scores_at": ("grid", "image"),
    "weighting": ("prototypes", "network", "none"),
    "label_source": ("fixed", "moving"),
    "soft_label_interpolation": ("probabilities", "logits"),
    "consistency_over_classes": ("mean", "sum"),
    "regulariser_over": ("all", "labels"),
    "mean_over": ("domain", "both"),
    "anchor_gradient": ("mean", "released"),
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
    "strong_colours": ("torchvision", "kornia"),
}
POSITIVE = (
    "schedule_steps", "schedule_factor", "temperature", "backbone_rate", "head_rate", "discriminator_rate",
    "contrast_temperature", "prototype_min_pixels", "prototype_init_min_pixels", "prototype_init_limit",
    "prototype_init_passes", "steps", "layer_decay", "statistics_images", "rare_class_temperature", "crop_tries",
    "mask_block", "label_every", "label_portion", "label_entropy", "logit_temperature", "discriminator_weight",
    "rare_weight", "hard_share", "self_label_pixels", "contrast_channels", "contrast_bank",
    "foundation_temperature", "generator_channels", "patch_channels",
    "perturbation_steps", "perturbation_weight",
)  # fmt: skip
OF_NUMBERS = (  # settings that are tuples of these
    "image_size", "value_range", "crop_size", "scale", "dilations", "detail_size", "input_mean", "input_std", "depths",
    "adam_betas", "blur_sigma", "ignored_margins", "label_scales", "discriminator_channels",
)  # fmt: skip
SHARES = (
    "momentum", "schedule_warmup_start", "grey", "ema_momentum", "prototype_momentum", "label_threshold", "mask_ratio",
    "feature_distance_share", "fourier_beta", "largest_class", "label_portion", "soft_label_limit", "hard_share",
    "detail_weight", "contrast_share", "window_overlap", "cutmix_share",
)  # fmt: skip
NOT_NEGATIVE = (
    "weight_decay", "adversarial_weight", "ce_weight", "rce_weight", "consistency_weight", "regulariser_weight",
    "distillation_weight", "schedule_power", "schedule_warmup", "mixed_weight", "masked_weight",
    "anchor_margin", "anchor_weight", "confident_weight", "distance_weight", "feature_distance_weight", "label_weight",
    "rare_class_min_pixels", "rare_class_crop_pixels", "auxiliary_ce_weight", "auxiliary_adversarial_weight",
    "local_weight", "local_floor", "local_after", "damping_steps", "weight_divergence", "entropy_weight",
    "auxiliary_entropy_weight", "focus", "source_weight", "memory_weight", "memory_after", "rare_pixels",
    "gradient_penalty", "self_label_weight", "self_label_queue", "contrast_weight", "contrast_after",
    "foundation_weight", "cycle_weight", "identity_weight", "semantic_weight", "semantic_again_weight", "pool_size",
    "generator_blocks", "patch_modes", "patch_weight", "patch_adversarial_weight",
    "perturbation", "queue_contrast_weight",
)  # fmt: skip


def check(config: ml_collections.ConfigDict) -> None:
    """Checks a configuration as far as that is quick.

    Raises:
      ValueError: the first setting that cannot work, what was expected, and the nearest choice.
    """
    sections = check_sections(config)
    check_numbers(config)
    check_data(config)
    choose("handover", config.handover, ("last", "best"))
    if not config.save_minutes > 0:
        refuse("save_minutes", config.save_minutes, "a positive number")
    for name in COUNTS:
        if config[name] < 1:
            refuse(name, config[name], "at least 1")
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


def check_numbers(section: Any, name: str = "") -> None:
    """Refuses what is no number in a setting of several numbers, of a section and of those within."""
    for key, value in section.items():
        path = f"{name}.{key}" if name else key
        if isinstance(value, ml_collections.ConfigDict):
            check_numbers(value, path)
        elif key in OF_NUMBERS and isinstance(value, tuple | list):
            if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in value):
                refuse(path, tuple(value), "numbers")
        elif isinstance(value, tuple | list):  # of several data sets
            for i, one in enumerate(value):
                if isinstance(one, ml_collections.ConfigDict):
                    check_numbers(one, f"{path}[{i}]")


def check_stage(config: ml_collections.ConfigDict, name: str, earlier: tuple[str, ...]) -> None:
    """Checks each of a stage's settings by itself; `earlier` are the stages that run before it."""
    stage = config[name]
    choose(f"{name}.kind", stage.kind, KINDS)
    kind = kinds.of(stage)
    if stage.weights is not None and kind.segments:  # it is not trained
        return
    for key, choices in (CHOICES | dict(kind.choices)).items():
        if key in stage:
            choose(f"{name}.{key}", stage[key], choices)
    for key in POSITIVE:
        if key in stage and not stage[key] > 0:
            refuse(f"{name}.{key}", stage[key], "a positive number")
    if stage.get("batch_size") is not None and stage.batch_size < 1:
        refuse(f"{name}.batch_size", stage.batch_size, "at least 1")
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
    for factor, value in stage.jitter.items():
        if not 0 <= value < 1:
            refuse(f"{name}.jitter.{factor}", value, "from 0 to below 1")
    choose(f"{name}.init", stage.init, (*WEIGHTS, *(e for e in earlier if not kinds.of(config[e]).translates)),
           ", or the path of a trained network")  # fmt: skip
    if stage.get("init_takes") is not None:
        choose(f"{name}.init_takes", stage.init_takes, ("backbone",))


def check_views(config: ml_collections.ConfigDict, views: ml_collections.ConfigDict) -> None:
    """Checks the section `views`, or what a stage makes of it."""
    for name, size in (("views.crop_size", views.crop_size), *(
        (f"{setting}.image_size", one.image_size) for role in ROLES
        for setting, one in data_sets(config.data, role).items()
    )):  # fmt: skip
        if len(size) != 2 or min(size) < 32 or any(side != int(side) for side in size):
            refuse(name, tuple(size), "(height, width), whole numbers, each at least 32 pixels")
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


def check_finite(section: ml_collections.ConfigDict, prefix: str = "") -> None:
    """Refuses numbers that are none, or infinite in float32."""
    for name, value in section.items():
        if isinstance(value, ml_collections.ConfigDict):
            check_finite(value, f"{prefix}{name}.")
        for i, one in enumerate(value if isinstance(value, tuple | list) else ()):
            if isinstance(one, ml_collections.ConfigDict):  # one of several data sets
                check_finite(one, f"{prefix}{name}[{i}].")
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not abs(number) <= LARGEST for number in numbers):
            refuse(f"{prefix}{name}", value, "finite numbers")


def check_sections(config: ml_collections.ConfigDict) -> list[str]:
    """Names of the stages that are described; refuses misspelt settings beside them."""
    sections = [name for name, s in config.items() if isinstance(s, ml_collections.ConfigDict) and "kind" in s]
    for name in config:
        choose(name, name, (*TOP_LEVEL, *sections))
    return sections


def check_file(setting: str, path: str) -> None:
    """Refuses a file of weights that is not there; that of a TensorFlow checkpoint is named without its ending."""
    if not any(epath.Path(name).exists() for name in (path, f"{path}.index")):
        refuse(setting, path, "a file that exists")
