"""CBST (Zou et al., ECCV 2018): self-training in rounds, each class with the same share of its pixels.

    python main.py --config=configs/cbst.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

`--config=configs/cbst.py:synthia` begins with SYNTHIA. Published: 45.9 mIoU on GTA5 (Table 1), 42.6 (48.9 over 13
classes) on SYNTHIA (Table 2), by the code of CRST, whose network and rates are here; this configuration itself has not
been run in full. `configs/mrkld.py` and `lrent.py` add CRST's regularisers.

A network learns the source. Then, three times: it labels the target's images; of the pixels predicted as each class the
surest 20 % (25, 30) keep a label, argmax of p over the class's threshold; and the network goes on with the source's
labels and these. Other than in the released code, a step has as many images of the source as of the target, where that
draws them from one pool with 3 to 6 % of the source's, no crop is centred on a rare class, and on the source crops have
512 x 1024 pixels, not 500 x 500. Networks of the released code see RGB: their files want
`--config.model.weights_input=imagenet` (docs/weights.md).
"""

import ml_collections

from proda_jax.configs import base

FORMS = ("gta5", "synthia")
PORTIONS = (0.2, 0.25, 0.3)  # of each round: 0.2, and 0.05 more
STEPS = 5_950  # of a round: two epochs of 2975 target images


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The configuration that begins with one of `FORMS`."""
    c = task(form)
    c.task = f"cbst_{form}"
    c.batch_size = 1
    c.views.crop_size = (512, 1024)
    c.views.target_stride = 1  # labels are learnt from at every pixel of the crop

    c.source = source()
    rounds = {f"round{number}": portion for number, portion in enumerate(PORTIONS, 1)}
    c.stages = ("source", *rounds)
    for before, (name, portion) in zip(c.stages, rounds.items(), strict=False):
        c[name] = retrained(base.distill(before, before, STEPS))
        c[name].label_portion = portion
        c[name].distillation_weight, c[name].target_view, c[name].extra_norm = 0.0, "weak", False
    return c


def task(form: str) -> ml_collections.ConfigDict:
    """Data and network: DeepLabv2 with four branches above a ResNet-101, at the source's size and Cityscapes'."""
    if form not in FORMS:
        raise ValueError(f"source {form!r} after the colon: expected {' or '.join(FORMS)}")
    c = base.get_config()
    c.evaluate_every = 1000
    c.data.label_space = {"gta5": "cityscapes19", "synthia": "synthia16"}[form]
    c.data.source = base.dataset(form, "train", {"gta5": (1052, 1914), "synthia": (760, 1280)}[form])
    c.data.target = base.dataset("cityscapes", "train", (1024, 2048))
    c.data.validation = base.dataset("cityscapes", "val", (1024, 2048))
    c.views.base_width = 0  # images are scaled from their own size
    c.model.head = "deeplab"
    return c


def source() -> ml_collections.ConfigDict:
    """100,000 steps on the source, from ImageNet weights."""
    stage = base.supervised("imagenet", 100_000)
    stage.backbone_rate, stage.head_rate, stage.weight_decay = 2.5e-4, 2.5e-3, 5e-4
    stage.schedule_steps = stage.steps
    stage.batch_norm = "frozen"
    stage.batch_size = 4
    return stage


def retrained(stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """How a round trains, and which labels it learns from."""
    stage.backbone_rate, stage.head_rate, stage.weight_decay = 5e-5, 5e-4, 5e-4
    stage.schedule = "constant"
    stage.batch_norm = "frozen"
    stage.label_selector, stage.label_every = "class_balanced", 4
    stage.label_flip = True
    stage.mean_over = "both"
    return stage
