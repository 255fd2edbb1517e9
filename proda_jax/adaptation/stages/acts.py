"""When the settings that several kinds of stages have act: beside others that say so.

A kind's own stand in its module, as `ACTS_BESIDE`, with those of these that it has.
"""

from collections.abc import Callable

import ml_collections

from proda_jax.adaptation.optim import ENDING
from proda_jax.adaptation.selectors import CLASS_SELECTORS

# names of settings, 'strong.hue' for one within a section; when they act, and that in words
Rule = tuple[tuple[str, ...], Callable[[ml_collections.ConfigDict], bool], str]


def values(stage: ml_collections.ConfigDict, setting: str) -> list:
    """What a stage has for a setting of a rule, [value]; [] where stages of its kind have none of that name."""
    *sections, setting = setting.split(".")
    for section in sections:
        stage = stage.get(section, {})
    return [stage[setting]] if setting in stage else []


OF_ALL: tuple[Rule, ...] = (
    (("adam_betas",), lambda s: s.optimizer == "adamw", "optimizer 'adamw'"),
    (("momentum",), lambda s: s.optimizer == "sgd", "optimizer 'sgd'"),
    (("decay_vectors",), lambda s: s.weight_decay > 0, "weight_decay above 0"),
    (("schedule_steps",), lambda s: s.schedule in ENDING,
     "schedule 'poly', 'linear' or 'flat_then_linear'"),
    (("schedule_power",), lambda s: s.schedule == "poly", "schedule 'poly'"),
    (("schedule_factor",), lambda s: s.schedule == "per_epoch", "schedule 'per_epoch'"),
    (("schedule_warmup_start", "schedule_warmup_to"), lambda s: s.schedule_warmup > 0, "schedule_warmup above 0"),
    (("fourier_window",), lambda s: s.fourier_beta > 0, "fourier_beta above 0"),
    (("statistics_images",), lambda s: s.statistics in ("recomputed", "averaged"),
     "statistics 'recomputed' or 'averaged'"),
    (("rare_class_temperature", "rare_class_min_pixels", "rare_class_crop_pixels"), lambda s: s.rare_class_sampling,
     "rare_class_sampling"),
    (("crop_tries",), lambda s: s.rare_class_sampling or s.largest_class < 1,
     "rare_class_sampling or largest_class below 1"),
)  # fmt: skip
OF_SELECTION: tuple[Rule, ...] = (  # of pseudo labels
    (
        ("label_threshold",),
        lambda s: s.label_selector != "none" and getattr(CLASS_SELECTORS.get(s.label_selector), "capped", True),
        "a label_selector other than 'none', 'class_balanced' and 'all_classes'",
    ),
    (("label_portion", "label_every"), lambda s: s.label_selector in CLASS_SELECTORS,
     "a label_selector by classes"),
)  # fmt: skip
OF_REGULARISER: tuple[Rule, ...] = (
    (("regulariser", "regulariser_over"), lambda s: s.regulariser_weight > 0, "regulariser_weight above 0"),
)
OF_SELF_LABELLING: tuple[Rule, ...] = (
    (("self_label_pixels", "self_label_queue"), lambda s: s.self_label_weight > 0, "self_label_weight above 0"),
    (("prototype_update", "prototype_min_pixels", "unseen_prototypes"), lambda s: not s.self_label_weight,
     "self_label_weight 0"),
)  # fmt: skip
