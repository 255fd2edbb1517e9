"""The systems of Tables 1 and 2 under one protocol: one start, as many steps each, the same rates and views.

    python main.py --mode=study --config=configs/studies/table1.py:demo --workdir=...
    python main.py --mode=study --config=configs/studies/table1.py:camvid --config.data.raw_dir=<CamVid> --workdir=...
    python main.py --mode=study --config=configs/studies/table1.py --workdir=... <data and weights as for gta5.py>
    python main.py --mode=study --config=configs/studies/table1.py:synthia --workdir=... <likewise, for synthia.py>

`demo` is rendered streets and `camvid` real photographs by day -> at dusk, both with EfficientNet-Lite0 from ImageNet
weights; the others are the paper's tasks at full size, with its network. Each row starts from the same network,
trained on the source, and takes `STEPS` more, in as many parts as its system has; the control takes them on the source
alone. Steps of CyCADA's and BDL's translation count like all others, and BDL translates once. The paper's numbers
beside the rows are those of Table 1, of Table 2 for SYNTHIA, each with a network, a size and a rule for choosing of its
own. Systems with two heads have networks of their own, and so a start and a control of their own; on small images these
have DeepLabv2's head, as the other takes all of the backbone's maps. After `demo_`, `camvid_`, `gta5_` or `synthia_`,
`one_head`, `levels` (AdaptSegNet and ADVENT at two levels), `clan` or `uncertainty` (Seg-Uncertainty) runs the systems
of one such network alone.

What is a system's own is as in its configuration (configs/cbst.py and others): losses, weights, selection of labels.
Rates, schedule, batch normalisation, views, sizes of discriminators, colour augmentation and how source images are
drawn are the same in all rows. In the forms `demo` and `camvid` they are drawn by rare classes, and statistics are
recomputed from target images; scores with running ones stand beside.
"""

import functools
from collections.abc import Callable
from typing import Any

import ml_collections

from proda_jax.configs import (
    advent,
    apoda,
    base,
    bdl,
    cag,
    camvid,
    cbst,
    clan,
    cycada,
    deeplabv2,
    demo,
    fada,
    fda,
    gta5,
    lite,
    patchalign,
    seg_uncertainty,
    small,
    synthia,
)
from proda_jax.configs.studies import common

# of each row after the source, by form; divisible into two, three and four parts
STEPS = {"gta5": 120_000, "synthia": 120_000, "demo": 480, "camvid": 480}
SOURCE_STEPS = {"gta5": gta5.STEPS, "synthia": gta5.STEPS, "demo": 400, "camvid": 400}
SMALL = ("demo", "camvid")
# by the network that they need: what it is called, and how it differs
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "one_head": ("", {}),
    "levels": ("two levels", {"model.auxiliary_head": "lower"}),
    "clan": ("parallel heads", {"model.auxiliary_head": "parallel", "model.auxiliary_weight": 1.0}),
    "uncertainty": ("heads of Seg-Uncertainty", {"model.auxiliary_head": "lower", "model.auxiliary_weight": 0.5}),
}
# of two heads, above small images; DeepLabv2's has no use for the channels
DEEPLAB = {"model.head": "deeplab", "model.head_channels": 256, "model.feature_channels": 256}
TERMS = (
    "Every row takes {} steps after the same start, in as many parts as its system has; an average is of two networks "
    "that take as many each. No row was tuned: "
    "weights of losses and rules for labels are the systems' own, made for other networks and steps."
)
Finish = Callable[[ml_collections.ConfigDict], ml_collections.ConfigDict]
Row = common.Row


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The study of a form: one of `STEPS`, of all systems, or followed by `_` and one of `SYSTEMS`."""
    task, _, system = form.partition("_")
    if task not in STEPS or system not in SYSTEMS and system:
        alone = (f"{name}_{one}" for name in STEPS for one in SYSTEMS)
        raise ValueError(f"configs/studies/table1.py:{form}: expected one of {', '.join((*STEPS, *alone))} after the "
                         "colon")  # fmt: skip
    c = {"gta5": gta5, "synthia": synthia, "demo": demo, "camvid": camvid}[task].get_config()
    c.task = f"{form}_systems"
    if task in SMALL:
        c.data.loader = "memory"
    steps, finish = STEPS[task], functools.partial(of_small_images, c) if task in SMALL else of_full_size
    c.evaluate_every = min(steps, 5000)
    c.source = finish(base.supervised("imagenet", SOURCE_STEPS[task]))
    c.control = finish(base.supervised("source", steps))
    add = {"one_head": one_head, "levels": two_levels, "clan": parallel_heads, "uncertainty": uncertainty}
    rows, variants = [], {}
    for name in (system,) if system else SYSTEMS:
        title, changed = SYSTEMS[name]
        changed = changed | (DEEPLAB if changed and task in SMALL else {})
        if system:  # of one network, there are no variants
            c.update_from_flattened_dict(changed)
        variant, of = (name, f", {title}") if title and not system else ("", "")
        rows += [(f"source only{of}", "source", None if of else "Source", variant),
                 (f"source only, continued{of}", "control", None, variant)]  # fmt: skip
        rows += [(*row, variant) for row in add[name](c, finish, steps)]
        variants |= {variant: changed} if variant else {}
    if task == "synthia":  # Table 2 lacks it
        rows = [row if row[2] != "CyCADA" else (*row[:2], None, row[3]) for row in rows]
    rows.sort(key=lambda row: row[0] == "ProDA")  # the last, as in the paper
    table = "Table 2" if task == "synthia" else "Table 1"
    title = f"Systems of Tables 1 and 2{', ' + system if system else ''}"
    study = common.study(c, "table1", title, rows, paper=table, gain_over="control", notes=(TERMS.format(steps),),
                         show=("classes", "costs", "predictions"), variants=variants)  # fmt: skip
    with study.study.unlocked():
        study.study.notes = tuple(note for note in study.study.notes if note != common.EQUAL_TERMS)
    return study


def of_full_size(stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """What is the same in all rows at full size: the warm-up's rates, and a schedule that ends with the stage."""
    usual = base.warmup("source", 1)
    stage.backbone_rate, stage.head_rate, stage.weight_decay = usual.backbone_rate, usual.head_rate, usual.weight_decay
    stage.schedule_steps = stage.steps
    return alike(small.jitter(stage), usual.discriminator_channels)


def of_small_images(c: ml_collections.ConfigDict, stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """What is the same in all rows of rendered streets, and of photographs."""
    stage = lite.tuned(stage, 1.0 if stage.init == "imagenet" else lite.LATER)
    if stage.get("source_weight", 1.0) > 0:
        lite.draw_rare_classes(stage, c.data.source.image_size, c.views.crop_size)
    return alike(small.jitter(stage), small.warmup("source", 1).discriminator_channels)


def alike(stage: ml_collections.ConfigDict, channels: tuple[int, ...]) -> ml_collections.ConfigDict:
    """Batch statistics, and discriminators in proportion to the network."""
    stage.batch_norm = "batch"
    if stage.get("discriminator") in ("released", "fully_convolutional") and stage.adversarial_weight:
        stage.discriminator_channels = channels
    if stage.get("source_weight", 1.0) == 0:
        stage.jitter.brightness = stage.jitter.contrast = stage.jitter.saturation = stage.jitter.white_balance = 0.0
    return stage


def one_head(c: ml_collections.ConfigDict, finish: Finish, steps: int) -> list[Row]:
    """Systems whose networks have one head; a stage each part, named after the system."""
    half, third, quarter = steps // 2, steps // 3, steps // 4
    c.adaptsegnet = finish(deeplabv2.adversarial("source", steps))
    c.minent = finish(advent.minent("source", steps))
    c.advent = finish(advent.advent("source", steps))
    c.patchalign = finish(patchalign.patchalign("source", steps))
    if finish is not of_full_size:
        c.patchalign.patch_size, c.patchalign.patch_channels = (8, 16), 64  # in proportion to images and networks
    c.apoda = finish(apoda.apoda("source", steps))
    c.fada = finish(fada.fada("source", half))
    c.fada_distilled = finish(fada.self_distillation("fada", "fada", half))
    if finish is not of_full_size:
        c.fada_distilled.views = ml_collections.ConfigDict()  # the study's: at half its size an image is below a crop

    c.bdl = finish(deeplabv2.adversarial("source", third))
    for before, name in (("bdl", "bdl_round1"), ("bdl_round1", "bdl_round2")):
        c[name] = deeplabv2.adversarial("source", third)
        c[name].labels_from, c[name].label_weight = before, 1.0
        finish(c[name])

    c.cycada_translation = translation(cycada.translation("source", half), finish)
    c.cycada = finish(deeplabv2.adversarial("source", half))
    c.cycada.source_images = "cycada_translation"

    before = "source"
    c.bdl_translation = translation(bdl.translation("source", quarter), finish)
    for name in ("bdl_translated", "bdl_translated_round1", "bdl_translated_round2"):
        c[name] = deeplabv2.adversarial("source", quarter)
        c[name].source_images = "bdl_translation"
        if before != "source":
            c[name].labels_from, c[name].label_weight = before, 1.0
        before, _ = name, finish(c[name])

    for system in ("cbst", "mrkld", "lrent"):
        before = "source"
        for number, portion in enumerate(cbst.PORTIONS, 1):
            name = f"{system}_round{number}"
            c[name] = finish(retrained(system, before, third, portion))
            before = name

    small = finish is not of_full_size
    c.fda = finish(lent(base.supervised("source", third), small))
    for before, name in (("fda", "fda_round1"), ("fda_round1", "fda_round2")):
        c[name] = finish(lent(selected(base.distill(before, before, third), "class_portion", 0.34, every=1), small))
        c[name].label_threshold = 0.9

    if finish is of_full_size:
        regulariser = c.stage1.regulariser_weight  # which tasks differ in
        c.warmup, c.stage1 = base.warmup("source", quarter), base.denoise("warmup", quarter)
        c.stage1.regulariser_weight = regulariser
        c.stage2, c.stage3 = proda_distilled("stage1", quarter), proda_distilled("stage2", quarter)
    for name in ("warmup", "stage1", "stage2", "stage3"):  # elsewhere the configuration's own
        c[name].steps = quarter
        finish(c[name])
    before = "warmup"
    for name in cag.get_config().stages[1:]:
        c[name] = finish(base.anchors(before, quarter))
        before = name
    c.dacs = finish(base.mix("source", steps))
    return [
        ("AdaptSegNet, one level", "adaptsegnet", "AdaptSeg"), ("MinEnt, one level", "minent", None),
        ("AdvEnt, one level", "advent", None), ("ADVENT, one level: both averaged", "minent+advent", None),
        ("APODA", "apoda", "APODA"), ("PatchAlign", "patchalign", "PatchAlign"), ("FADA", "fada_distilled", "FADA"),
        ("CAG-UDA", before, "CAG-UDA"), ("CyCADA", "cycada", "CyCADA"), ("BDL", "bdl_translated_round2", "BDL"),
        ("BDL without translation", "bdl_round2", None), ("CBST", "cbst_round3", "CBST"),
        ("MRKLD", "mrkld_round3", "MRKLD"), ("LRENT", "lrent_round3", None), ("FDA", "fda_round2", None),
        ("DACS", "dacs", None), ("ProDA", "stage3", "ProDA"),
    ]  # fmt: skip


def translation(stage: ml_collections.ConfigDict, finish: Finish) -> ml_collections.ConfigDict:
    """A translation as its system has it, or of small images: networks in proportion, and the study's own crops."""
    if finish is not of_full_size:
        stage.generator_channels, stage.generator_blocks, stage.discriminator_channels = 16, 3, (16, 32, 64)
        stage.batch_size = None
        stage.views = ml_collections.ConfigDict()  # as of all rows
    return stage


def proda_distilled(teacher: str, steps: int) -> ml_collections.ConfigDict:
    """Stages 2 and 3 of a student that starts as its teacher, as all rows start from one network."""
    stage = base.distill(teacher, teacher, steps)
    stage.extra_norm = False
    return stage


def retrained(system: str, before: str, steps: int, portion: float) -> ml_collections.ConfigDict:
    """A round of CBST, MRKLD or LRENT, whose loss is a mean over labelled pixels of both domains."""
    if system == "lrent":
        stage = base.self_training(before, steps)
        stage.hard_labels, stage.label_entropy, stage.soft_label_stride = False, 0.25, 4
        stage.mean_over = "both"
        return chosen(stage, "class_balanced", portion, every=4)
    stage = selected(base.distill(before, before, steps), "class_balanced", portion, every=4)
    stage.mean_over = "both"
    if system == "mrkld":
        stage.regulariser, stage.regulariser_over, stage.regulariser_weight = "mrkld", "labels", 0.01
    return stage


def selected(stage: ml_collections.ConfigDict, selector: str, portion: float, every: int) -> ml_collections.ConfigDict:
    """A stage on hard labels of the target alone, in the view that they were made in."""
    stage.distillation_weight, stage.target_view, stage.extra_norm = 0.0, "weak", False
    return chosen(stage, selector, portion, every)


def chosen(stage: ml_collections.ConfigDict, selector: str, portion: float, every: int) -> ml_collections.ConfigDict:
    """A portion of each class's labels, by thresholds that every so many pixels are looked at for."""
    stage.label_selector, stage.label_portion, stage.label_every = selector, portion, every
    stage.label_flip = selector == "class_balanced"
    return stage


def lent(stage: ml_collections.ConfigDict, small: bool) -> ml_collections.ConfigDict:
    """The target's amplitudes and FDA's entropy; of `small` crops beta is the least that moves more than their mean."""
    stage.fourier_beta = 0.05 if small else fda.get_config().adapted.fourier_beta
    stage.regulariser, stage.regulariser_weight = "robust_entropy", fda.get_config().adapted.regulariser_weight
    return stage


def two_levels(c: ml_collections.ConfigDict, finish: Finish, steps: int) -> list[Row]:
    """A second head on the third group of blocks, which learns the source with a weight of 0.1."""
    c.adaptsegnet_levels = deeplabv2.adversarial("source", steps)
    c.minent_levels, c.advent_levels = advent.minent("source", steps), advent.advent("source", steps)
    c.adaptsegnet_levels.auxiliary_adversarial_weight = c.advent_levels.auxiliary_adversarial_weight = 0.0002
    c.minent_levels.auxiliary_entropy_weight = 0.0002
    for name in ("adaptsegnet_levels", "minent_levels", "advent_levels"):
        c[name].auxiliary_ce_weight = 0.1
        finish(c[name])
    return [
        ("AdaptSegNet, two levels", "adaptsegnet_levels", None), ("MinEnt, two levels", "minent_levels", None),
        ("AdvEnt, two levels", "advent_levels", None),
        ("ADVENT: both averaged", "minent_levels+advent_levels", "ADVENT"),
    ]  # fmt: skip


def parallel_heads(c: ml_collections.ConfigDict, finish: Finish, steps: int) -> list[Row]:
    """CLAN: two heads beside each other, whose sum is what the network says."""
    c.clan = finish(clan.clan("source", steps, clan.LOCAL_WEIGHT["synthia" if is_synthia(c) else "gta5"]))
    return [("CLAN", "clan", "CLAN")]


def is_synthia(c: ml_collections.ConfigDict) -> bool:
    return c.task.startswith("synthia")


def uncertainty(c: ml_collections.ConfigDict, finish: Finish, steps: int) -> list[Row]:
    """Seg-Uncertainty: memory, then rectified labels."""
    c.memory = finish(seg_uncertainty.memory("source", steps // 2))
    height, width = c.views.crop_size
    c.memory.rare_pixels = c.memory.rare_pixels * height * width // (512 * 1024)  # in proportion to its crops
    c.rectified = finish(seg_uncertainty.rectified("memory", steps // 2))
    return [("Seg-Uncertainty", "rectified", "Seg-Uncertainty")]
