"""The systems of Tables 1 and 2 under one protocol: one start, as many steps each, the same rates and views.

    python main.py --mode=study --config=configs/studies/table1.py:demo --workdir=...
    python main.py --mode=study --config=configs/studies/table1.py:camvid --config.data.raw_dir=<CamVid> --workdir=...
    python main.py --mode=study --config=configs/studies/table1.py --workdir=... <data and weights as for gta5.py>

`demo` is rendered streets and `camvid` real photographs by day -> at dusk, both with EfficientNet-Lite0 from ImageNet
weights; without either it is the paper's task at full size, with its network. Each row starts from the same network,
trained on the source, and takes `STEPS` more, in as many parts as its system has; the control takes them on the source
alone. Steps of CyCADA's and BDL's translation count like all others, and BDL translates once. The paper's numbers
beside the rows are Table 1's, each with a network, a size and a rule for choosing of its own. Systems with two heads
have networks of their own, and a study each: `demo_levels` (AdaptSegNet and ADVENT at two levels), `demo_clan`,
`demo_uncertainty` (Seg-Uncertainty), or `gta5_` in place of `demo_`; those of `demo_` have DeepLabv2's head on the same
backbone, as the other takes all its maps.

What is a system's own is as in its configuration (configs/cbst.py and others): losses, weights, selection of labels.
Rates, schedule, batch normalisation, views, sizes of discriminators, colour augmentation and how source images are
drawn are the same in all rows. In the forms `demo` and `camvid` they are drawn by rare classes, and statistics are
recomputed from target images; scores with running ones stand beside.
"""

import functools
from collections.abc import Callable

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
)
from proda_jax.configs.studies import common

# of each row after the source, by form; divisible into two, three and four parts
STEPS = {"gta5": 120_000, "demo": 480, "camvid": 480}
SOURCE_STEPS = {"gta5": gta5.STEPS, "demo": 400, "camvid": 400}
SYSTEMS = ("one_head", "levels", "clan", "uncertainty")  # by the network that they need
TERMS = (
    "Every row takes {} steps after the same start, in as many parts as its system has. No row was tuned: "
    "weights of losses and rules for labels are the systems' own, made for other networks and steps."
)
Finish = Callable[[ml_collections.ConfigDict], ml_collections.ConfigDict]
Row = common.Row


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The study of a form: 'gta5', 'demo', 'camvid', or 'gta5_' or 'demo_' and one of `SYSTEMS` with two heads."""
    task, _, system = form.partition("_")
    if task not in STEPS or system not in SYSTEMS[1:] + ("",) or task == "camvid" and system:
        others = ", ".join((*STEPS, *(f"{task}_{name}" for task in ("gta5", "demo") for name in SYSTEMS[1:])))
        raise ValueError(f"configs/studies/table1.py:{form}: expected one of {others} after the colon")
    c = {"gta5": gta5, "demo": demo, "camvid": camvid}[task].get_config()
    c.task = f"{form}_systems"
    if task != "gta5":
        c.data.loader = "memory"
    steps, finish = STEPS[task], of_gta5 if task == "gta5" else functools.partial(of_small_images, c)
    c.evaluate_every = min(steps, 5000)
    c.source = finish(base.supervised("imagenet", SOURCE_STEPS[task]))
    c.control = finish(base.supervised("source", steps))
    if task == "demo" and system:
        c.model.head, c.model.head_channels, c.model.feature_channels = "deeplab", 256, 256  # which it has no use for
    add = {"": one_head, "levels": two_levels, "clan": parallel_heads, "uncertainty": uncertainty}[system]
    rows = [("source only", "source", 36.6), ("source only, continued", "control", None), *add(c, finish, steps)]
    title = f"Systems of Tables 1 and 2{', ' + system if system else ''}"
    study = common.study(c, "table1", title, rows, paper="Table 1", gain_over="control", notes=(TERMS.format(steps),),
                         show=("classes", "costs", "predictions"))  # fmt: skip
    with study.study.unlocked():
        study.study.notes = tuple(note for note in study.study.notes if note != common.EQUAL_TERMS)
    return study


def of_gta5(stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
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
    if finish is not of_gta5:
        c.patchalign.patch_size, c.patchalign.patch_channels = (8, 16), 64  # in proportion to images and networks
    c.apoda = finish(apoda.apoda("source", steps))
    c.fada = finish(fada.fada("source", half))
    c.fada_distilled = finish(fada.self_distillation("fada", "fada", half))

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

    c.fda = finish(lent(base.supervised("source", third)))
    for before, name in (("fda", "fda_round1"), ("fda_round1", "fda_round2")):
        c[name] = finish(lent(selected(base.distill(before, before, third), "class_portion", 0.34, every=1)))
        c[name].label_threshold = 0.9

    if finish is of_gta5:
        c.warmup, c.stage1 = base.warmup("source", quarter), base.denoise("warmup", quarter)
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
        ("AdaptSegNet, one level", "adaptsegnet", 41.4), ("MinEnt, one level", "minent", None),
        ("AdvEnt, one level", "advent", None), ("APODA", "apoda", 45.9), ("PatchAlign", "patchalign", 46.5),
        ("FADA", "fada_distilled", 50.1), ("CAG-UDA", before, 50.2),
        ("CyCADA", "cycada", 42.7), ("BDL", "bdl_translated_round2", 48.5),
        ("BDL without translation", "bdl_round2", None), ("CBST", "cbst_round3", 45.9), ("MRKLD", "mrkld_round3", 47.1),
        ("LRENT", "lrent_round3", None), ("FDA", "fda_round2", None), ("DACS", "dacs", None),
        ("ProDA", "stage3", 57.5),
    ]  # fmt: skip


def translation(stage: ml_collections.ConfigDict, finish: Finish) -> ml_collections.ConfigDict:
    """A translation as its system has it, or of small images: networks in proportion, and the study's own crops."""
    if finish is not of_gta5:
        stage.generator_channels, stage.generator_blocks, stage.discriminator_channels = 16, 3, (16, 32, 64)
        stage.batch_size = None
        stage.views = ml_collections.ConfigDict()
    return stage


def proda_distilled(teacher: str, steps: int) -> ml_collections.ConfigDict:
    """Stages 2 and 3 of a student that starts as its teacher, as all rows start from one network."""
    stage = base.distill(teacher, teacher, steps)
    stage.extra_norm = False
    return stage


def retrained(system: str, before: str, steps: int, portion: float) -> ml_collections.ConfigDict:
    """A round of CBST, MRKLD or LRENT."""
    if system == "lrent":
        stage = base.self_training(before, steps)
        stage.hard_labels, stage.label_entropy, stage.soft_label_stride = False, 0.25, 4
        return chosen(stage, "class_balanced", portion, every=4)
    stage = selected(base.distill(before, before, steps), "class_balanced", portion, every=4)
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


def lent(stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The target's amplitudes and FDA's entropy; beta is the smallest that moves more than the mean of such crops."""
    stage.fourier_beta = 0.05
    stage.regulariser, stage.regulariser_weight = "robust_entropy", fda.get_config().adapted.regulariser_weight
    return stage


def two_levels(c: ml_collections.ConfigDict, finish: Finish, steps: int) -> list[Row]:
    """A second head on the third group of blocks."""
    c.adaptsegnet = deeplabv2.adversarial("source", steps)
    c.minent, c.advent = advent.minent("source", steps), advent.advent("source", steps)
    deeplabv2.two_levels(c, c.adaptsegnet, c.minent, c.advent)
    c.adaptsegnet.auxiliary_adversarial_weight = c.advent.auxiliary_adversarial_weight = 0.0002
    c.minent.auxiliary_entropy_weight = 0.0002
    for name in ("adaptsegnet", "minent", "advent"):
        finish(c[name])
    return [("AdaptSegNet, two levels", "adaptsegnet", 42.4), ("MinEnt, two levels", "minent", None),
            ("AdvEnt, two levels", "advent", None)]  # fmt: skip


def parallel_heads(c: ml_collections.ConfigDict, finish: Finish, steps: int) -> list[Row]:
    """CLAN: two heads beside each other, whose sum is what the network says."""
    c.model.auxiliary_head, c.model.auxiliary_weight = "parallel", 1.0
    c.clan = finish(clan.clan("source", steps))
    return [("CLAN", "clan", 43.2)]


def uncertainty(c: ml_collections.ConfigDict, finish: Finish, steps: int) -> list[Row]:
    """Seg-Uncertainty: memory, then rectified labels."""
    c.model.auxiliary_head, c.model.auxiliary_weight = "lower", 0.5
    c.memory = finish(seg_uncertainty.memory("source", steps // 2))
    c.rectified = finish(seg_uncertainty.rectified("memory", steps // 2))
    return [("Seg-Uncertainty", "rectified", 50.3)]


