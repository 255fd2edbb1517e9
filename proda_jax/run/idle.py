"""Settings that do nothing beside others: somebody who changed one believes that it acts, so it is refused."""

from collections.abc import Iterator, Sequence

import ml_collections

from proda_jax.adaptation.stages import acts, kinds
from proda_jax.adaptation.stages.sections import views_of
from proda_jax.configs import base
from proda_jax.models.backbones import BACKBONES, OPTIONS
from proda_jax.models.deeplab import NO_AUXILIARY
from proda_jax.models.heads import HEADS
from proda_jax.system.refusals import refuse


def check(config: ml_collections.ConfigDict, name: str) -> None:
    """Refuses a setting of a stage that is not what `configs/base.py` has, and does nothing.

    Raises:
      ValueError: the setting, and what it would act beside.
    """
    stage, usual = config[name], base.usual(config[name].kind)
    for setting, wanted in _idle(stage, (*acts.OF_ALL, *kinds.of(stage).acts_beside)):
        for given, expected in zip(acts.values(stage, setting), acts.values(usual, setting), strict=True):
            if given != expected:
                refuse(f"{name}.{setting}", given, f"{expected!r}, as it acts beside {wanted} alone")
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


def _idle(stage: ml_collections.ConfigDict, rules: tuple[acts.Rule, ...]) -> Iterator[tuple[str, str]]:
    """(setting, what it would act beside) of all that do nothing."""
    for settings, act, wanted in rules:
        if not act(stage):
            yield from ((setting, wanted) for setting in settings)
