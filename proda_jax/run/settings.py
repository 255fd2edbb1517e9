"""Refuses impossible settings before anything is computed: what `ranges.py` does not see."""

from collections import ChainMap
from collections.abc import Mapping

import ml_collections

from proda_jax.adaptation import adversary, optim, prototypes, statistics, translation
from proda_jax.adaptation.losses import GAN_LOSSES, REDUCTIONS, REGULARISERS
from proda_jax.adaptation.selectors import CLASS_SELECTORS, SELECTORS
from proda_jax.adaptation.stages import contrast, kinds
from proda_jax.adaptation.stages.build import backbone_of, network, takes_backbone
from proda_jax.adaptation.stages.kinds import KINDS
from proda_jax.adaptation.stages.sections import views_of
from proda_jax.adaptation.views import fourier
from proda_jax.data.checks import NONE, check_data, check_label_space, data_sets, first_of
from proda_jax.data.label_spaces import label_space
from proda_jax.models import backbones
from proda_jax.models.backbones import BACKBONES, OPTIONS, Backbone
from proda_jax.models.deeplab import AUXILIARY, LOWER, NO_AUXILIARY, PARALLEL
from proda_jax.models.discriminator import DISCRIMINATORS
from proda_jax.models.heads import HEADS
from proda_jax.models.translator import SMALLEST
from proda_jax.models.weights import foreign, published
from proda_jax.run import idle, ranges
from proda_jax.run.evaluate import IMAGE_SIZE, LABELS, scored_at
from proda_jax.system.refusals import choose, refuse

OF_TWO_HEADS = (
    "auxiliary_ce_weight", "auxiliary_adversarial_weight", "auxiliary_entropy_weight", "local_weight", "memory_weight",
    "rectified",
)  # fmt: skip
CHOICES = {  # what tables of functions have; `ranges.CHOICES` has the others
    "statistics": statistics.CHOICES,
    "schedule": optim.SCHEDULES,
    "optimizer": optim.OPTIMIZERS,
    "label_selector": ChainMap(CLASS_SELECTORS, SELECTORS),
    "reduction": REDUCTIONS,
    "gan": (*GAN_LOSSES, adversary.CLASSES),
    "adversarial_on": adversary.MAPS,
    "discriminator": DISCRIMINATORS,
    "regulariser": REGULARISERS,
    "fourier_window": fourier.WINDOWS,
    "prototype_distance": prototypes.DISTANCES,
    "semantic": translation.SEMANTIC,
    "contrast_with": contrast.FORMS,
}


def check(config: ml_collections.ConfigDict) -> None:
    """Checks a configuration.

    Raises:
      ValueError: the first setting that cannot work, what was expected, and the nearest choice.
    """
    sections = ranges.check_sections(config)
    if config.init_from is not None:
        refuse("init_from", config.init_from, "None, except with --mode=evaluate, predict, export; to start from the "
               "network in a file, name it as config.<stage>.weights of the stage it stands for")  # fmt: skip
    ranges.check(config)
    choose("evaluate_at", scored_at(config), (LABELS, IMAGE_SIZE))
    if config.handover == "best" and not data_sets(config.data, "validation"):
        refuse("handover", "best", "'last', as there are no validation images to choose by")
    check_model(config.model)
    idle.check_model(config.model)
    for i, name in enumerate(config.stages):
        check_stage(config, name, earlier=config.stages[:i])
    idle.check_starts(config, sections)
    trains = any(kinds.of(config[name]).auxiliary_head(config[name]) for name in config.stages if name in sections)
    if config.model.auxiliary_head != NO_AUXILIARY and not trains:
        refuse("model.auxiliary_head", config.model.auxiliary_head, "'none', as no stage trains a second head")
    trains = any(kinds.of(config[name]).two_resolutions for name in config.stages)
    if config.model.get("detail_size") and not trains:
        able = ", ".join(repr(kind) for kind, row in KINDS.items() if row.two_resolutions)
        refuse("model.detail_size", tuple(config.model.detail_size), f"(), as no stage is of kind {able}")


def check_evaluation(config: ml_collections.ConfigDict) -> None:
    """Checks what evaluating a network needs of a configuration; what training needs may be missing."""
    ranges.check_sections(config)
    check_data(config)
    choose("evaluate_at", scored_at(config), (LABELS, IMAGE_SIZE))
    check_model(config.model)
    if config.evaluate_batch_size < 1:
        refuse("evaluate_batch_size", config.evaluate_batch_size, "at least 1")
    if not data_sets(config.data, "validation"):
        refuse("data.validation.name", NONE, "labelled images to evaluate on")
    if config.init_from is not None:
        ranges.check_file("init_from", config.init_from)


def check_network(config: ml_collections.ConfigDict) -> None:
    """Checks what describes a network: its sizes and classes."""
    ranges.check_sections(config)
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
    for name in OPTIONS:  # of which older workdirs may lack some
        if model.get(name) is not None and name not in BACKBONES[model.backbone].options:
            refuse(f"model.{name}", model[name], f"None, as backbone {model.backbone!r} has no such setting")
    for part in (backbone_of(model), HEADS[model.head]):
        if refused := part.check_sizes() if isinstance(part, Backbone) else part.check_sizes(model):
            refuse(f"model.{refused[0]}", model[refused[0]], refused[1])
    if model.auxiliary_head == LOWER and (HEADS[model.head].takes_levels or len(backbone_of(model).levels) < 2):
        refuse("model.auxiliary_head", LOWER, f"'none' or 'parallel', as head {model.head!r} takes all maps of "
               f"backbone {model.backbone!r}, or there is but one")  # fmt: skip
    check_two_resolutions(model)
    check_convention("model.weights_input", model.weights_input)
    if not model.dilations or min(model.dilations) < 1:
        refuse("model.dilations", tuple(model.dilations), "whole numbers from 1, such as (6, 12, 18, 24)")
    if not 0 <= model.dropout < 1:
        refuse("model.dropout", model.dropout, "a share below 1")
    if len(model.input_mean) != 3:
        refuse("model.input_mean", tuple(model.input_mean), "three numbers, of red, green and blue")
    if len(model.input_std) != 3 or not min(model.input_std) > 0:
        refuse("model.input_std", tuple(model.input_std), "three positive numbers, of red, green and blue")


def check_two_resolutions(model: ml_collections.ConfigDict) -> None:
    """Checks the size of the windows that a network sees at full size."""
    size = model.get("detail_size") or ()
    if not size:
        return
    if model.auxiliary_head != NO_AUXILIARY:
        refuse("model.auxiliary_head", model.auxiliary_head, f"{NO_AUXILIARY!r}, as model.detail_size is {tuple(size)}")
    unit = network(model, 1, extra_norm=False, axis_name=None).detail_unit
    if len(size) != 2 or min(size) < 32 or any(n % unit for n in size):
        wanted = f"each at least 32 pixels and, as the network's grids want it, a multiple of {unit}"
        refuse("model.detail_size", tuple(size), f"(), or (height, width), {wanted}")


def check_details(config: ml_collections.ConfigDict, name: str) -> None:
    """Checks that a stage's crops hold the windows that are seen at full size."""
    if config[name].statistics in statistics.AFTERWARDS:
        refuse(f"{name}.statistics", config[name].statistics, "'all' or 'target', as images at two resolutions, by "
               "model.detail_size, have means of their own")  # fmt: skip
    size, crop = config.model.detail_size, views_of(config, name).crop_size
    unit = network(config.model, 1, extra_norm=False, axis_name=None).detail_unit
    if any(n > m or m % unit for n, m in zip(size, crop, strict=True)):
        refuse("views.crop_size", tuple(crop), f"multiples of {unit}, and at least model.detail_size, {tuple(size)}")


def check_stage(config: ml_collections.ConfigDict, name: str, earlier: tuple[str, ...]) -> None:
    """Checks one stage's section; `earlier` are the stages that run before it."""
    ranges.check_stage(config, name, earlier)
    stage, kind = config[name], kinds.of(config[name])
    if stage.weights is not None and kind.segments:
        ranges.check_file(f"{name}.weights", stage.weights)
        return
    for key, choices in CHOICES.items():
        if key in stage and key not in kind.choices:
            choose(f"{name}.{key}", stage[key], choices)
    crop = views_of(config, name).crop_size
    if stage.fourier_beta and not fourier.WINDOWS[stage.fourier_window](crop, stage.fourier_beta).any():
        refuse(f"{name}.fourier_beta", stage.fourier_beta, f"at least {1 / min(crop):.3g}, one frequency of the crop")
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
    if kind.two_resolutions and config.model.get("detail_size"):
        check_details(config, name)
    check_labelled(config, name)
    if stage.get("label_selector") in CLASS_SELECTORS and stage.get("soft_label_interpolation") == "logits":
        refuse(f"{name}.soft_label_interpolation", "logits",
               "'probabilities', as those are zero where a selector by classes keeps no label")  # fmt: skip
    for setting in kinds.of_source_views(stage) if stage.get("source_weight") == 0 else ():
        given = stage[setting].to_dict() if setting == "jitter" else stage[setting]
        refuse(f"{name}.{setting}", given, "as configs/base.py has it, as source_weight is 0: the source is left out")
    if stage.get("patch_modes"):
        check_patches(config, name)
    if "auxiliary_ce_weight" in stage:
        check_heads(config, name)
    if "adversarial_on" in stage:
        check_adversarial(config, name)
    check_optimizer(stage, name)
    check_statistics(stage, name)
    idle.check(config, name)
    if kinds.learns_prototypes(stage) and stage.prototype_distance != "cosine":
        refuse(f"{name}.prototype_distance", stage.prototype_distance, "'cosine', by which prototypes are learnt, as "
               "self_label_weight is above 0")  # fmt: skip
    whole = stage.init in labelling and not takes_backbone(config, name)
    if whole and has_extra_norm(config, stage.init) and not has_extra_norm(config, name):
        refuse(f"{name}.extra_norm", stage.extra_norm, f"True, as stage {stage.init!r}, which it starts from, has it")
    for key in (kind.teacher, kind.pseudo_labels and kind.pseudo_labels.made_by):
        if key:
            choose(f"{name}.{key}", stage[key], labelling, ", or the path of a trained network")
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
    of_target = ("adversarial_weight", "entropy_weight", "auxiliary_entropy_weight", "label_weight", "perturbation")
    if not any(stage[key] for key in of_target):
        refuse(f"{name}.adversarial_weight", 0.0, "above 0, or entropy_weight: the stage learns nothing of the target")
    if stage.adversarial_on == "features" and stage.auxiliary_adversarial_weight:
        refuse(f"{name}.auxiliary_adversarial_weight", stage.auxiliary_adversarial_weight, "0.0 on 'features'")
    if stage.perturbation and stage.adversarial_on != "features":
        refuse(f"{name}.adversarial_on", stage.adversarial_on, "'features', as these are what `perturbation` is of")
    if stage.gan == adversary.CLASSES and stage.local_weight:
        refuse(f"{name}.local_weight", stage.local_weight, f"0.0 of gan {adversary.CLASSES!r}")
    if 0 < stage.focus < 1:
        refuse(f"{name}.focus", stage.focus, "0, or at least 1, as below it right labels have no gradient")


def check_convention(setting: str, images: str) -> None:
    """Refuses a way to feed images that is none; '' is a guess."""
    try:
        if images not in ("", *foreign.INPUTS):
            foreign.convention(images)
    except ValueError as error:
        raise ValueError(f"config.{setting}: {error}") from None


def check_mixing(config: ml_collections.ConfigDict, name: str) -> None:
    """Checks what a stage has that learns from mixed images."""
    stage, crop = config[name], views_of(config, name).crop_size
    for key, value in stage.strong.items():
        if key == "blur_sigma":
            if len(value) != 2 or not 0 < value[0] <= value[1]:
                refuse(f"{name}.strong.blur_sigma", tuple(value), "(smallest, largest), positive")
        elif not 0 <= value <= 1:
            refuse(f"{name}.strong.{key}", value, "a share, 0 to 1")
    listed = config.data.get("labelled_target") is not None
    if not (stage.mixed_weight or stage.masked_weight or listed or data_sets(config.data, "source")):
        refuse(f"{name}.mixed_weight", 0.0, "above 0, or masked_weight: without labelled images nothing else is learnt "
               "from")  # fmt: skip
    margins = stage.ignored_margins
    if len(margins) != 4 or min(margins) < 0:
        refuse(f"{name}.ignored_margins", tuple(margins), "(top, bottom, left, right), pixels from 0")
    size = crop if stage.margins_of == "crop" else first_of(config.data, "target").image_size
    if margins[0] + margins[1] >= size[0] or margins[2] + margins[3] >= size[1]:
        refuse(f"{name}.ignored_margins", tuple(margins), f"less than the {stage.margins_of}, {tuple(size)}")
    classes = label_space(config.data.label_space, config.data.classes, config.data.colors).classes
    for known in stage.feature_distance_classes:
        choose(f"{name}.feature_distance_classes", known, classes)
    if stage.foundation is not None:
        choose(f"{name}.foundation", stage.foundation, BACKBONES)
        if stage.foundation_file is None:
            refuse(f"{name}.foundation_file", None, f"a file with weights of {stage.foundation}")
        check_convention(f"{name}.foundation_input", stage.get("foundation_input", ""))
        ranges.check_file(f"{name}.foundation_file", stage.foundation_file)
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
    if stage.schedule in optim.ENDING and stage.schedule_steps < stage.steps:
        refuse(f"{name}.schedule_steps", stage.schedule_steps, f"at least {name}.steps, {stage.steps}, as the rate is "
               "zero from there on")  # fmt: skip


def check_statistics(stage: ml_collections.ConfigDict, name: str) -> None:
    """Refuses a choice of statistics that nothing could follow."""
    if stage.statistics == "all":
        return
    if stage.batch_norm == "frozen":
        refuse(f"{name}.statistics", stage.statistics, f"'all', as {name}.batch_norm is 'frozen', which moves none")
    others = "'all', 'recomputed' or 'averaged', as"
    if stage.statistics == "target" and kinds.of(stage).target(stage) is None:
        refuse(f"{name}.statistics", "target", f"{others} this stage has no passes of target images")
    if stage.statistics == "target" and kinds.of(stage).role(stage) == "pretraining":
        refuse(f"{name}.statistics", "target", f"{others} passes are of both domains' images together")


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
    for key in ("projection_channels", "hidden_channels"):
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
    ranges.check_file(f"model.{init}_weights", path)
