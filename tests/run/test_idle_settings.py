"""A setting acts or is refused: what a stage of each kind reads, and what changes with each of its settings.

Every setting of `configs/base.py` is found by reflection. A run is followed up to its first step, which is traced and
not compiled; networks and labels are stand-ins.
"""

import hashlib
import re

import ml_collections
import numpy as np
import pytest
import spy
from tiny import CLASSES, IMAGE, block_source, tiny_config, tiny_variables

from proda_jax.adaptation.stages import kinds, prepare
from proda_jax.configs import advent, apoda, base, clan, fada, patchalign, seg_uncertainty
from proda_jax.run import experiment, networks, prepared, ranges, settings, steps
from proda_jax.run.sources import Sources
from proda_jax.system import devices


def by_classes(stage: ml_collections.ConfigDict, selector: str, **settings) -> ml_collections.ConfigDict:
    """A stage whose labels are selected by thresholds of each class."""
    stage.label_selector = selector
    if "regulariser_weight" in stage:
        stage.regulariser_weight = 0.1
    if selector == "class_balanced":  # at which the stage's own has no say
        stage.label_threshold = base.denoise("", 1).label_threshold
    stage.update(settings)
    return stage


def by_fourier(stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A stage that learns from source images with the target's amplitudes, and is to be sure of the target."""
    stage.fourier_beta, stage.regulariser_weight = 0.1, 0.1
    return stage


def by_patches(stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A stage with as many modes as a few small images have."""
    stage.patch_modes, stage.patch_size = 3, (16, 16)
    return stage


STAGES = {
    "pretrain": lambda: base.pretrain("random", 10),
    "supervised": lambda: base.supervised("random", 10),
    "fda": lambda: by_fourier(base.supervised("random", 10)),
    "oracle": lambda: base.supervised("random", 10, target_labels=True),
    "warmup": lambda: base.warmup("source", 10),
    "warmup_labels": lambda: by_classes(
        base.warmup("source", 10), "class_portion", label_weight=1.0, labels_from="source"
    ),
    "minent": lambda: advent.minent("source", 10),
    "clan": lambda: clan.clan("source", 40),
    "memory": lambda: seg_uncertainty.memory("source", 25),
    "rectified": lambda: seg_uncertainty.rectified("source", 25),
    "patches": lambda: by_patches(patchalign.patchalign("source", 10)),
    "perturbed": lambda: apoda.apoda("source", 10),
    "fada": lambda: fada.fada("source", 10),
    "denoise": lambda: base.denoise("source", 10),
    "self_training": lambda: base.self_training("source", 10),
    "anchors": lambda: base.anchors("source", 10),
    "distill": lambda: base.distill("source", "source", 10),
    "class_portion": lambda: by_classes(base.distill("source", "source", 10), "class_portion", distillation_weight=0.0),
    "soft_by_classes": lambda: by_classes(base.self_training("source", 10), "class_balanced", hard_labels=False),
    "translate": lambda: base.translate("source", 10),
    "mix": lambda: base.mix("source", 10),
}
# of other stages, or of the folder that a network is in, which this run does not have; or read after the last step
ELSEWHERE = {"kind", "weights", "window"}


def config_of(kind: str) -> ml_collections.ConfigDict:
    c = tiny_config()
    c.batch_size, c.snapshots.images = 1, 0  # snapshots are looked at, and nothing is learnt from them
    c.other, c.source = base.supervised("random", 1), base.supervised("random", 1)
    c.x = STAGES[kind]()
    if kind in ("clan", "memory", "rectified"):
        c.model.auxiliary_head = "parallel"
    if c.x.kind == "distill":
        c.x.extra_norm = False  # as the network that it starts from
    c.stages = ("other", "source", "x")
    return c


class Followed(Exception):
    """The first step has been traced."""


@pytest.fixture
def follow(monkeypatch, tmp_path):
    """A function that follows a configuration's stage 'x', and returns all that decides what it does."""
    seen: list = []

    def train(compiled_for, state, teacher, batches_from, evaluate, schedule, folder, mesh, *rest):
        batch = next(iter(batches_from(0)))
        seen.extend([schedule, batch["source"]["image"].sum()])
        compiled_for(state, devices.put_batch(batch, mesh), teacher)

    def compiled(self, name, setup, state, batch, teacher):
        closed = self.step(setup).trace(state, batch, teacher).jaxpr
        constants = hashlib.sha256(b"".join(np.asarray(c).tobytes() for c in closed.consts)).hexdigest()
        key = np.asarray(state.key.view(np.uint32) if state.key.dtype == np.uint32 else 0)
        text = re.sub(r"0x[0-9a-f]+", "", str(closed))
        seen.extend([text, constants, str(state.key), key.tolist()])
        raise Followed

    def with_labels(batches, store, names, name):
        for batch in batches:
            shape = (len(batch["image"]), *((7, 13, CLASSES) if name == "soft_label" else IMAGE))
            yield batch | {name: np.zeros(shape, np.float16 if name == "soft_label" else np.uint8)}

    def accumulate(model, variables, current, batch, **options):
        seen.append((sorted(batch), options))
        return current

    def initialise(self, model, key, modules=None):
        seen.append(modules and sorted((kind, *sorted(names)) for kind, names in modules.items()))
        return tiny_variables(model, 0)

    def checkpoint(self, name, which, writable=True):
        seen.append((name, which))
        return devices.replicate(tiny_variables(self.model(name), 0), self._mesh), 0

    monkeypatch.setattr(experiment.train, "train", train)
    monkeypatch.setattr(steps.Steps, "compiled", compiled)
    monkeypatch.setattr(experiment, "with_pseudo_labels", with_labels)
    def fill(self, store, teacher, recipe):
        seen.append((teacher, recipe.folder, recipe.options, recipe.balance))

    monkeypatch.setattr(prepared.Prepared, "fill", fill)
    monkeypatch.setattr(prepare, "_accumulate", accumulate)
    monkeypatch.setattr(networks.Networks, "checkpoint", checkpoint)
    monkeypatch.setattr(networks.Networks, "initialise", initialise)
    count = iter(range(1000))

    def run(config) -> list:
        seen.clear()
        folder = tmp_path / str(next(count))
        given = {role: block_source(3, 0) for role in ("source", "target", "validation")}
        made = experiment.Experiment(config, folder, Sources(config, folder, given=given), devices_used=1)
        for name in ("other", "source"):
            result = {"name": name, "steps": 1, "seconds": 1, "best": {"step": 1}, "last": {"step": 1}}
            made.workdir.finish(name, result)
        with pytest.raises(Followed):
            made.run_stage("x")
        return list(seen)

    return run


def other_value(name: str, value):
    """Another value of a setting, which may be possible."""
    choices = {"init": "other", "labels_from": "other", "teacher": "other", "random_as": "other", "weights": "x.npz",
               "init_takes": "backbone", "head": "deeplab", "label_scales": (1.0, 1.5), "scale": (0.8, 1.1),
               "crop_size": (32, 32), "soft_label_stride": 4, "target_stride": 2, "batch_size": 2, "dilations": (3,),
               "discriminator_channels": (8, 8, 8, 8), "adam_betas": (0.8, 0.99),
               "source_images": "other", "window": (32, 32), "patch_size": (16, 32),
               "ignored_margins": (1, 2, 0, 0), "feature_distance_classes": ("sky",),
               "detail_size": (32, 32), "foundation": "dinov3_vits16", "foundation_file": "x.npz",
               "foundation_input": "rgb01", "auxiliary_head": "lower", "backbone": "resnet50", "depths": (2, 1),
               "batch_norm_epsilon": "clamped", "initialisation": "pytorch", "input_mean": (0.1, 0.2, 0.3),
               "input_std": (0.1, 0.2, 0.3), "imagenet_weights": "x.npz", "self_supervised_weights": "x.npz",
               "weights_input": "rgb01", "position_resize": "plain", "stride_in": "3x3",
               "contract_dilation": True, "ceil_mode": False, "deep_stem": True, "scan_blocks": True}  # fmt: skip
    if name in choices:
        return choices[name]
    if choices := settings.CHOICES.get(name, ranges.CHOICES.get(name)):
        return next(choice for choice in choices if choice != value)
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value * 0.5 if value else 0.25


def is_refused(config) -> bool:
    try:
        settings.check(config)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("kind", [
    pytest.param(name, marks=[] if name in kinds.KINDS and name != "translate" else pytest.mark.slow) for name in STAGES
])  # fmt: skip
def test_what_a_stage_does_not_read_is_refused_where_it_is_changed(kind, follow):
    config = config_of(kind)
    config.x.schedule_steps = 98765  # so that nothing traced before is reused
    settings.check(config)
    with spy.recorded() as read:
        follow(config)
    assert len(read) > 40
    for name in set(config.x) - read - ELSEWHERE - {"views", "jitter"}:
        changed = config_of(kind)
        changed.x[name] = other_value(name, changed.x[name])
        with pytest.raises(ValueError, match=f"config.x.{name} = "):
            settings.check(changed)
    for name in set(config.views) - read:
        changed = config_of(kind)
        changed.x.unlock()
        changed.x.views[name] = other_value(name, changed.views[name])
        with pytest.raises(ValueError, match=f"config.x.views.{name} = "):
            settings.check(changed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STAGES)
def test_each_setting_changes_what_a_stage_does_or_is_refused(kind, follow):
    before, idle = follow(config_of(kind)), []
    sections = {"x.": config_of(kind).x, "x.jitter.": config_of(kind).x.jitter, "views.": config_of(kind).views}
    if kind == "denoise":
        sections["model."] = config_of(kind).model
    for prefix, section in sections.items():
        for name in section:
            if isinstance(section[name], ml_collections.ConfigDict) or name in ELSEWHERE | {"dtype"}:
                continue
            changed = config_of(kind)
            with changed.unlocked():
                changed.update_from_flattened_dict({f"{prefix}{name}": other_value(name, section[name])})
            if not is_refused(changed) and follow(changed) == before:
                idle.append(f"{prefix}{name}")
    stage = config_of(kind).x  # other stages may use what this one does not, or has of its own
    shared = {f"views.{name}" for name in (*kinds.of(stage).unused_views(stage), *stage.views)}
    if kind == "rectified":  # all of its passes are of the target
        shared.add("x.statistics")
    # of networks as they begin, for which there are stand-ins here; see test_starts.py
    begin = {"imagenet_weights", "self_supervised_weights", "initialisation", "input_mean", "input_std"}
    assert set(idle) <= shared | {f"model.{name}" for name in begin}
