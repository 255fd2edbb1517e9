"""The kinds of stages, and what each needs besides its network. A new kind is a row here, and a file with its step.

Who runs a stage, checks its settings or reports on it asks here, and knows no kind by name. JAX is not imported for it:
how a run is doing is said without.
"""

import dataclasses
import importlib
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proda_jax.adaptation.stages import in_paper

Settings = Mapping[str, Any]  # of a stage, {'setting': value}; of older workdirs some, or all, may be missing


@dataclass(frozen=True)
class NeededLabels:
    """Labels of the target images that a network makes before a stage begins.

    Attributes:
      name: what a batch calls them, and `prepare.RECIPES`, which makes them.
      title: what people call them.
      made_by: setting with the name of the stage whose network makes them.
    """

    name: str
    title: str
    made_by: str


@dataclass(frozen=True)
class Kind:
    """What a kind of stage needs, and what it gives. Functions take the stage's settings.

    Attributes:
      file: module beside this one, with its `train_step`.
      target: what it reads of the target: 'images', 'labels' (and images) or None.
      pseudo_labels: that it learns from, if any. Soft ones are weighed by the module's `weigh`, and snapshots look at
        what becomes of them.
      labels_with: setting that is above zero where it does so at all; None: always.
      teacher: setting with the name of the stage whose frozen network the step is given, if any.
      discriminator: whether it trains any.
      weighs_classes: whether it keeps how often classes are absent, by which they are weighed.
      auxiliary_head: whether it trains the network's second head, if there is one.
      two_resolutions: whether its network sees images at two resolutions, if `model.detail_size` says so.
      momentum_encoder: whether it has an average of its parameters.
      averages_statistics: whether this has running statistics of its own.
      prototypes: whether it has prototypes, which start as means of the features of the network that it starts from.
      frozen_start: whether the step is given the network that the stage starts from, as its teacher.
      patch_modes: whether the step is given modes of the source's patches, as its teacher.
      of_labelled: settings by which it needs labelled images, 'kind' where it always does; those without any can be
        trained from target images alone.
      pairs_target: whether a second target image takes the place of the source image where nothing is labelled.
      choices: values of settings that other kinds have with others, {'setting': values}.
      before: what older versions did where their workdirs have no such setting, {'setting': value}, if other kinds
        did otherwise or have no such setting.
      unused_views: settings of the section 'views' that do nothing in it.
      translates: whether it trains generators, which translate images, in place of a network that labels them.
      head: that takes the place of the configuration's, by settings of the network; none by default.
      role: in reports: 'source', 'oracle', 'self-training', 'adaptation', or 'pretraining' and 'translation', whose
        networks label nothing.
      paper_row: which of the paper's networks it is, by the kinds of the run's stages, too, or None.
      paper_settings: those that the paper names for it, given the name of the source data set.
    """

    file: str
    target: Callable[[Settings], str | None] = lambda stage: "images"
    pseudo_labels: NeededLabels | None = None
    labels_with: str | None = None
    teacher: str | None = None
    discriminator: Callable[[Settings], bool] = lambda stage: False
    weighs_classes: Callable[[Settings], bool] = lambda stage: False
    auxiliary_head: Callable[[Settings], bool] = lambda stage: False
    two_resolutions: bool = False
    momentum_encoder: Callable[[Settings], bool] = lambda stage: False
    averages_statistics: Callable[[Settings], bool] = lambda stage: False
    prototypes: Callable[[Settings], bool] = lambda stage: False
    frozen_start: Callable[[Settings], bool] = lambda stage: False
    patch_modes: Callable[[Settings], bool] = lambda stage: False
    of_labelled: Callable[[Settings], tuple[str, ...]] = lambda stage: ("kind",)
    pairs_target: bool = False
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    before: Settings = field(default_factory=dict)
    unused_views: Callable[[Settings], tuple[str, ...]] = lambda stage: ()
    translates: bool = False
    head: Callable[[Settings], dict[str, Any]] | None = None
    role: Callable[[Settings], str] = lambda stage: "adaptation"
    paper_row: Callable[[Settings, in_paper.Kinds], str | None] = lambda stage, kinds: None
    paper_settings: Callable[[Settings, str | None], in_paper.Named] = lambda stage, source: {}

    @property
    def module(self) -> types.ModuleType:
        """The module with its step, imported when it is first asked for."""
        return importlib.import_module(f"{__package__}.{self.file}")

    @property
    def acts_beside(self) -> tuple[Any, ...]:
        """When its settings act, where others have to say so: rows as of `acts.OF_ALL`."""
        return getattr(self.module, "ACTS_BESIDE", ())

    @property
    def segments(self) -> bool:
        """Whether its network labels images."""
        return self.head is None and not self.translates

    @property
    def rectifies(self) -> bool:
        """Whether it weighs pseudo labels as training goes on, so that what becomes of them is worth looking at."""
        return self.pseudo_labels is not None and self.pseudo_labels.name == "soft_label"


def uses_momentum_encoder(stage: Settings) -> bool:
    """Whether stage 1 with these settings uses the momentum encoder and prototypes at all."""
    moving = stage.get("weighting", "prototypes") != "none" or stage.get("label_source", "fixed") != "fixed"
    return moving or stage.get("consistency_weight", 1.0) > 0


def learns_prototypes(stage: Settings) -> bool:
    """Whether the prototypes of a stage with these settings are learnt by self-labelling (CPSL)."""
    return stage.get("self_label_weight", 0.0) > 0


def of_labelled_in_mixing(stage: Settings) -> tuple[str, ...]:
    """The settings by which a stage on mixed images looks at true labels."""
    found = {
        "feature_distance_weight": stage.get("feature_distance_weight", 0.0) > 0,
        "contrast_weight": stage.get("contrast_weight", 0.0) > 0,
        "foundation": stage.get("foundation") is not None,
        "mask_source": bool(stage.get("mask_source")),
        "prototype_init": stage.get("weighting") == "prototypes" and stage.get("prototype_init") == "source",
        "reduction": stage.get("reduction", "mean") != "mean",
    }
    return (*of_source_views(stage), *(name for name, needed in found.items() if needed))


def of_labelled_in_distilling(stage: Settings) -> tuple[str, ...]:
    """The settings by which a student learns from true labels."""
    found = {
        "source_weight": stage.get("source_weight", 1.0) not in (0.0, 1.0),
        "mean_over": stage.get("mean_over", "domain") != "domain",
    }
    return (*of_source_views(stage), *(name for name, needed in found.items() if needed))


def of_source_views(stage: Settings) -> tuple[str, ...]:
    """The settings that decide what of labelled images is seen, and how."""
    found = {
        "rare_class_sampling": stage.get("rare_class_sampling", False),
        "largest_class": stage.get("largest_class", 1.0) < 1.0,
        "jitter": any(stage.get("jitter", {}).values()),
        "fourier_beta": stage.get("fourier_beta", 0.0) > 0,
    }
    return tuple(name for name, needed in found.items() if needed)


def supervised_target(stage: Settings) -> str | None:
    """What supervised training with these settings learns from the target."""
    if stage.get("target_labels", False):
        return "labels"
    return "images" if stage.get("regulariser_weight", 0.0) > 0 else None


_STRONG = ("strong_operations", "strong_flip", "randaugment", "cutout_fraction")  # views of the strong view alone

KINDS: dict[str, Kind] = {
    "pretrain": Kind(
        "pretrain",
        unused_views=lambda stage: (*_STRONG, "target_stride"),
        head=lambda stage: {
            "head": "projection", "classes": stage["projection_channels"], "head_channels": stage["hidden_channels"],
        },
        role=lambda stage: "pretraining",
    ),
    "supervised": Kind(
        "supervised",
        target=supervised_target,
        before={"regulariser": "robust_entropy"},
        unused_views=lambda stage: (*_STRONG, *(() if stage.get("regulariser_weight") else ("target_stride",))),
        role=lambda stage: {"labels": "oracle", "images": "adaptation", None: "source"}[supervised_target(stage)],
        paper_row=lambda stage, kinds: "source" if supervised_target(stage) is None else None,
        paper_settings=lambda stage, source: in_paper.JITTER,
    ),
    "warmup": Kind(
        "warmup",
        pseudo_labels=NeededLabels("hard_label", "hard pseudo labels", made_by="labels_from"),
        labels_with="label_weight",
        before={
            "label_weight": 0.0, "labels_from": None, "label_selector": "class_portion", "label_threshold": 0.9,
            "label_scales": [1.0], "label_flip": False, "label_portion": 0.5, "label_every": 1,
        },
        discriminator=lambda stage: stage.get("adversarial_weight", 0.01) > 0 or stage.get("perturbation", 0.0) > 0,
        weighs_classes=lambda stage: stage.get("rare_weight", 1.0) != 1 or stage.get("hard_share", 1.0) < 1,
        auxiliary_head=lambda stage: True,
        patch_modes=lambda stage: stage.get("patch_modes", 0) > 0,
        unused_views=lambda stage: (*_STRONG, "target_stride"),
        paper_row=in_paper.warmup_row,
        paper_settings=lambda stage, source: in_paper.JITTER,
    ),
    "denoise": Kind(
        "denoise",
        pseudo_labels=NeededLabels("soft_label", "soft pseudo labels", made_by="labels_from"),
        momentum_encoder=uses_momentum_encoder,
        prototypes=uses_momentum_encoder,
        unused_views=lambda stage: _STRONG if stage.get("consistency_weight") == 0 else (),
        role=lambda stage: "self-training" if stage.get("weighting") == "none" else "adaptation",
        paper_row=in_paper.denoise_row,
        paper_settings=in_paper.denoise_settings,
    ),
    "anchors": Kind(
        "anchors",
        prototypes=lambda stage: True,
        frozen_start=lambda stage: True,
        unused_views=lambda stage: (*_STRONG, "target_stride"),
    ),
    "translate": Kind(
        "translate",
        teacher="teacher",
        discriminator=lambda stage: True,
        translates=True,
        unused_views=lambda stage: (*_STRONG, "target_stride"),
        role=lambda stage: "translation",
    ),
    "distill": Kind(
        "distill",
        pseudo_labels=NeededLabels("hard_label", "hard pseudo labels", made_by="teacher"),
        teacher="teacher",
        of_labelled=of_labelled_in_distilling,
        auxiliary_head=lambda stage: stage.get("auxiliary_ce_weight", 0.0) > 0,
        unused_views=lambda stage: _STRONG if stage.get("target_view") == "weak" else (),
        paper_row=in_paper.distill_row,
        paper_settings=lambda stage, source: in_paper.DISTILL,
    ),
    "mix": Kind(
        "mix",
        unused_views=lambda stage: (*_STRONG, "target_stride"),
        momentum_encoder=lambda stage: True,
        averages_statistics=lambda stage: stage.get("teacher_statistics") == "averaged",
        prototypes=lambda stage: stage.get("weighting") == "prototypes",
        frozen_start=lambda stage: stage.get("feature_distance_weight", 0.0) > 0,
        of_labelled=of_labelled_in_mixing,
        pairs_target=True,
        two_resolutions=True,
        choices={"weighting": ("share", "pixels", "none", "prototypes")},
    ),
}  # fmt: skip


def of(stage: Settings) -> Kind:
    """What the kind of a stage with these settings needs."""
    kind = KINDS[stage["kind"]]
    unlabelled = kind.labels_with is not None and not stage.get(kind.labels_with)
    return dataclasses.replace(kind, pseudo_labels=None) if unlabelled else kind


# settings that stages of the names in our configurations have, for workdirs that do not say
USUAL: dict[str, Settings] = {
    "source": {"kind": "supervised"},
    "source_jitter": {"kind": "supervised"},
    "oracle": {"kind": "supervised", "target_labels": True},
    "warmup": {"kind": "warmup"},
    "self_training": {"kind": "denoise", "weighting": "none"},
    "stage1": {"kind": "denoise"},
    "stage2": {"kind": "distill"},
    "stage3": {"kind": "distill"},
}
