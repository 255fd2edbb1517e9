"""Settings that do nothing beside others: somebody who changed one believes that it acts, so it is refused."""

from collections.abc import Callable, Iterator, Sequence

import ml_collections

from proda_jax.adaptation.selectors import CLASS_SELECTORS
from proda_jax.adaptation.stages import kinds
from proda_jax.adaptation.stages.sections import views_of
from proda_jax.configs import base
from proda_jax.models.backbones import BACKBONES, OPTIONS
from proda_jax.models.deeplab import NO_AUXILIARY
from proda_jax.models.heads import HEADS
from proda_jax.system.refusals import refuse

Stage = ml_collections.ConfigDict
# names of settings, when they act, and that in words
Rule = tuple[tuple[str, ...], Callable[[Stage], bool], str]

_OF_ALL: tuple[Rule, ...] = (
    (("adam_betas",), lambda s: s.optimizer == "adamw", "optimizer 'adamw'"),
    (("momentum",), lambda s: s.optimizer == "sgd", "optimizer 'sgd'"),
    (("decay_vectors",), lambda s: s.weight_decay > 0, "weight_decay above 0"),
    (("schedule_steps",), lambda s: s.schedule in ("poly", "linear", "flat_then_linear"),
     "schedule 'poly', 'linear' or 'flat_then_linear'"),
    (("schedule_power",), lambda s: s.schedule == "poly", "schedule 'poly'"),
    (("schedule_factor",), lambda s: s.schedule == "per_epoch", "schedule 'per_epoch'"),
    (("schedule_warmup_start", "schedule_warmup_to"), lambda s: s.schedule_warmup > 0, "schedule_warmup above 0"),
    (("fourier_window",), lambda s: s.fourier_beta > 0, "fourier_beta above 0"),
    (("statistics_images",), lambda s: s.statistics == "recomputed", "statistics 'recomputed'"),
    (("rare_class_temperature", "rare_class_min_pixels", "rare_class_crop_pixels"), lambda s: s.rare_class_sampling,
     "rare_class_sampling"),
    (("crop_tries",), lambda s: s.rare_class_sampling or s.largest_class < 1,
     "rare_class_sampling or largest_class below 1"),
)  # fmt: skip
_OF_SELECTION: tuple[Rule, ...] = (  # of pseudo labels
    (
        ("label_threshold",),
        lambda s: s.label_selector != "none" and getattr(CLASS_SELECTORS.get(s.label_selector), "capped", True),
        "a label_selector other than 'none', 'class_balanced' and 'all_classes'",
    ),
    (("label_portion", "label_every"), lambda s: s.label_selector in CLASS_SELECTORS,
     "a label_selector by classes"),
)  # fmt: skip
_OF_REGULARISER: tuple[Rule, ...] = (
    (("regulariser", "regulariser_over"), lambda s: s.regulariser_weight > 0, "regulariser_weight above 0"),
)
_OF_WARMUP: tuple[Rule, ...] = (
    (
        ("labels_from", "label_selector", "label_threshold", "label_scales", "label_flip", "label_portion",
         "label_every"),
        lambda s: s.label_weight > 0,
        "label_weight above 0",
    ),
    *_OF_SELECTION,
)  # fmt: skip
_OF_SELF_LABELLING: tuple[Rule, ...] = (
    (("self_label_pixels", "self_label_queue"), lambda s: s.self_label_weight > 0, "self_label_weight above 0"),
    (("prototype_update", "prototype_min_pixels", "unseen_prototypes"), lambda s: not s.self_label_weight,
     "self_label_weight 0"),
)  # fmt: skip
_OF_DENOISING: tuple[Rule, ...] = (
    *_OF_SELF_LABELLING,
    (
        ("ema_momentum", "ema_view", "ema_crop", "ema_mode", "temperature", "unseen_prototypes", "prototype_momentum",
         "prototype_update", "prototype_min_pixels", "prototype_init", "prototype_init_by", "prototype_init_limit",
         "prototype_init_min_pixels", "prototype_init_passes", "prototype_distance", "self_label_weight"),
        kinds.uses_momentum_encoder,
        "a weighting other than 'none', label_source 'moving' or consistency_weight above 0",
    ),
    (("ema_crop",), lambda s: s.ema_view == "image", "ema_view 'image'"),
    (("consistency_over_classes",), lambda s: s.consistency_weight > 0, "consistency_weight above 0"),
    (("label_entropy",), lambda s: s.label_selector in ("class_balanced", "all_classes") and not s.hard_labels,
     "label_selector 'class_balanced' or 'all_classes' and hard_labels=False"),
    *_OF_SELECTION,
    *_OF_REGULARISER,
)  # fmt: skip
_OF_DISTILLATION: tuple[Rule, ...] = (
    (("ce_weight", "rce_weight"), lambda s: not s.rectified, "rectified=False"),
    (("distillation_form",), lambda s: s.distillation_weight > 0, "distillation_weight above 0"),
    *_OF_SELECTION,
    *_OF_REGULARISER,
)
_OF_SUPERVISION: tuple[Rule, ...] = (
    (("regulariser_weight",), lambda s: not s.target_labels, "target_labels=False"),
    (("regulariser",), lambda s: s.regulariser_weight > 0, "regulariser_weight above 0"),
)
_OF_ANCHORS: tuple[Rule, ...] = (
    (("anchor_margin",), lambda s: s.anchor_weight > 0 or s.distance_weight > 0,
     "anchor_weight or distance_weight above 0"),
    (("label_threshold",), lambda s: s.confident_weight > 0, "confident_weight above 0"),
    (("anchor_gradient",), lambda s: s.distance_weight > 0, "distance_weight above 0"),
)  # fmt: skip
_OF_ADVERSARIES: tuple[Rule, ...] = (
    (
        ("gan", "adversarial_on", "discriminator", "discriminator_channels", "discriminator_rate",
         "discriminator_weight", "scores_at", "gradient_penalty"),
        lambda s: s.adversarial_weight > 0 or s.perturbation > 0,
        "adversarial_weight or perturbation above 0",
    ),
    (("local_weight", "auxiliary_adversarial_weight", "discriminated", "patch_modes"),
     lambda s: s.adversarial_weight > 0, "adversarial_weight above 0"),
    (("perturbation_steps", "perturbation_weight"), lambda s: s.perturbation > 0, "perturbation above 0"),
    (("discriminator_warmup",), lambda s: (s.adversarial_weight > 0 or s.perturbation > 0) and s.schedule_warmup > 0,
     "adversarial_weight or perturbation, and schedule_warmup, above 0"),
    (("patch_size", "patch_channels", "patch_weight", "patch_adversarial_weight"), lambda s: s.patch_modes > 0,
     "patch_modes above 0"),
    (("soft_label_limit",), lambda s: s.adversarial_weight > 0 and s.gan == "classes", "gan 'classes'"),
    (("local_floor", "local_after"), lambda s: s.local_weight > 0, "local_weight above 0"),
    (("rare_pixels",), lambda s: s.rare_weight != 1, "a rare_weight other than 1"),
    (("focus", "reduction"), lambda s: s.rare_weight == 1 and s.hard_share == 1, "rare_weight 1 and hard_share 1"),
    (("memory_after",), lambda s: s.memory_weight > 0, "memory_weight above 0"),
    (("damping_steps",), lambda s: s.adversarial_weight > 0 or s.weight_divergence > 0,
     "adversarial_weight or weight_divergence above 0"),
)  # fmt: skip
_OF_PRETRAINING: tuple[Rule, ...] = (
    (("weights", "reduction", "fourier_beta", "rare_class_sampling", "largest_class"), lambda s: False,
     "a stage that labels pixels"),
)  # fmt: skip
_OF_TRANSLATION: tuple[Rule, ...] = (
    (
        ("weights", "reduction", "fourier_beta", "batch_norm", "statistics", "backbone_rate", "layer_decay",
         "backbone_steps", "source_images", "rare_class_sampling", "largest_class"),
        lambda s: False,
        "a stage that labels pixels",
    ),
    (("semantic",), lambda s: s.semantic_weight > 0 or s.semantic_again_weight > 0,
     "semantic_weight or semantic_again_weight above 0"),
    (("window_overlap",), lambda s: len(s.window) > 0, "a window"),
)  # fmt: skip
_OF_MIXING: tuple[Rule, ...] = (
    *_OF_SELF_LABELLING,
    (
        ("temperature", "unseen_prototypes", "prototype_momentum", "prototype_update", "prototype_min_pixels",
         "prototype_init", "prototype_init_by", "prototype_init_limit", "prototype_init_min_pixels",
         "prototype_init_passes", "prototype_distance", "self_label_weight"),
        lambda s: s.weighting == "prototypes",
        "weighting 'prototypes'",
    ),
    (("contrast_with", "contrast_temperature", "contrast_channels", "contrast_share", "contrast_after"),
     lambda s: s.contrast_weight > 0, "contrast_weight above 0"),
    (("contrast_bank",), lambda s: s.contrast_weight > 0 and s.contrast_with == "bank", "contrast_with 'bank'"),
    (("foundation_file", "foundation_input", "foundation_weight", "foundation_temperature"),
     lambda s: s.foundation is not None, "foundation"),
    (("weight_over",), lambda s: s.weighting == "share", "weighting 'share'"),
    (("label_threshold",), lambda s: s.weighting in ("share", "pixels"), "weighting 'share' or 'pixels'"),
    (("margins_of",), lambda s: any(s.ignored_margins), "ignored_margins other than zero"),
    (("mask_block", "mask_ratio", "mask_strong"), lambda s: s.masked_weight > 0, "masked_weight above 0"),
    (("feature_distance_classes",), lambda s: s.feature_distance_weight > 0, "feature_distance_weight above 0"),
    (("feature_distance_share",), lambda s: s.feature_distance_weight > 0 and len(s.feature_distance_classes) > 0,
     "feature_distance_weight above 0 and feature_distance_classes"),
)  # fmt: skip
# beside those of all, by kind; with the settings that the kind begins with
_RULES = {
    "supervised": (_OF_SUPERVISION, lambda: base.supervised("", 1)),
    "warmup": ((*_OF_ADVERSARIES, *_OF_WARMUP), lambda: base.warmup("", 1)),
    "denoise": (_OF_DENOISING, lambda: base.denoise("", 1)),
    "anchors": (_OF_ANCHORS, lambda: base.anchors("", 1)),
    "distill": (_OF_DISTILLATION, lambda: base.distill("", "", 1)),
    "pretrain": (_OF_PRETRAINING, lambda: base.pretrain("", 1)),
    "translate": (_OF_TRANSLATION, lambda: base.translate("", 1)),
    "mix": (_OF_MIXING, lambda: base.mix("", 1)),
}


def check(config: ml_collections.ConfigDict, name: str) -> None:
    """Refuses a setting of a stage that is not what `configs/base.py` has, and does nothing.

    Raises:
      ValueError: the setting, and what it would act beside.
    """
    stage = config[name]
    rules, usual = _RULES.get(stage.kind, ((), lambda: ml_collections.ConfigDict()))
    usual = ml_collections.ConfigDict(base.stage("", "", 1).to_dict() | usual().to_dict())
    for setting, wanted in _idle(stage, (*_OF_ALL, *rules)):
        if setting in stage and stage[setting] != usual[setting]:
            refuse(f"{name}.{setting}", stage[setting], f"{usual[setting]!r}, as it acts beside {wanted} alone")
    if "detail_weight" in stage and stage.detail_weight != usual.detail_weight and not config.model.get("detail_size"):
        refuse(f"{name}.detail_weight", stage.detail_weight, f"{usual.detail_weight}, as model.detail_size is ()")
    unused = kinds.of(stage).unused_views(stage)
    for setting in stage.get("views", {}):
        if setting in unused:
            refuse(f"{name}.views.{setting}", stage.views[setting], f"none: stage {name!r} has no view that it acts on")
    views = views_of(config, name)
    if not views.randaugment and views.strong_operations != base.get_config().views.strong_operations:
        refuse("views.strong_operations", views.strong_operations, "the usual number, as views.randaugment is False")


def check_model(model: ml_collections.ConfigDict) -> None:
    """Refuses what the chosen head or backbone leaves alone.

    Raises:
      ValueError: the setting.
    """
    usual = base.get_config().model
    if model.auxiliary_head == NO_AUXILIARY and model.auxiliary_weight:
        refuse("model.auxiliary_weight", model.auxiliary_weight, "0.0, as model.auxiliary_head is 'none'")
    of_attention = ("head_channels", "dropout") if model.get("detail_size") else ()
    for setting in set(HEADS[model.head].unused) - set(of_attention):
        if model[setting] != usual[setting]:
            refuse(f"model.{setting}", model[setting], f"{usual[setting]!r}, as head {model.head!r} has no use for it")
    for setting in set(OPTIONS) - set(BACKBONES[model.backbone].options):
        if model[setting] is not None:
            refuse(f"model.{setting}", model[setting], f"None, as backbone {model.backbone!r} has no use for it")


def starts(config: ml_collections.ConfigDict) -> set[str]:
    """What the networks of a configuration's stages start from in the end: 'random', the two kinds of weights of
    backbones, and 'weights' where a file stands for a whole stage."""
    stages, found = list(config.stages), set()
    for name in stages:  # which grows by stages that these start from, and that have run before
        stage = config[name]
        start = stage.init if stage.weights is None else "weights"
        found.add(start)
        stages += [start] if start in config and start not in stages else []
    return found


def check_starts(config: ml_collections.ConfigDict, sections: Sequence[str]) -> None:
    """Refuses what no network has use for that a stage starts from; `sections` are all stages, run or not.

    Raises:
      ValueError: the setting.
    """
    usual, model, found = base.get_config().model, config.model, starts(config)
    for setting in ("input_mean", "input_std"):
        if "random" not in found and tuple(model[setting]) != tuple(usual[setting]):
            refuse(f"model.{setting}", tuple(model[setting]), f"{tuple(usual[setting])}, as it acts in networks that "
                   "start at random alone: how weights want their images is model.weights_input")  # fmt: skip
    for kind in ("imagenet", "self_supervised"):
        if model[f"{kind}_weights"] is not None and kind not in {config[name].init for name in sections}:
            refuse(f"model.{kind}_weights", model[f"{kind}_weights"], f"None, as no stage starts from it: set the init "
                   f"of one to {kind!r}, such as config.{config.stages[0]}.init")  # fmt: skip
    if model.weights_input and not found & {"weights", "imagenet", "self_supervised"}:
        refuse("model.weights_input", model.weights_input, "'', as no stage starts from a file of weights")


def _idle(stage: Stage, rules: tuple[Rule, ...]) -> Iterator[tuple[str, str]]:
    """(setting, what it would act beside) of all that do nothing."""
    for settings, acts, wanted in rules:
        if not acts(stage):
            yield from ((setting, wanted) for setting in settings)
