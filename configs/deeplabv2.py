"""What AdaptSegNet, ADVENT, CLAN and others have in common: DeepLabv2 above a ResNet-101, GTA5 or SYNTHIA, one image of
each domain in a step.

Their codes train on whole images, 1280 pixels wide of the source and 1024 of the target; here both are crops of 1024 x
512, which is the whole of a target image.
"""

import ml_collections

from proda_jax.configs import base

SOURCES = ("gta5", "synthia")


def begin(source: str) -> ml_collections.ConfigDict:
    """The settings without stages; `source`: 'gta5' or 'synthia'."""
    if source not in SOURCES:
        raise ValueError(f"source {source!r} after the colon: expected {' or '.join(SOURCES)}")
    c = base.get_config()
    c.batch_size = 1  # image of each domain
    c.evaluate_every = 2000
    c.handover = "best"  # they report the best of their networks on the validation set

    c.data.label_space = "cityscapes19" if source == "gta5" else "synthia16"
    c.data.source = base.dataset(source, "train", (720, 1280) if source == "gta5" else (760, 1280))
    c.data.target = base.dataset("cityscapes", "train", (512, 1024))
    c.data.validation = base.dataset("cityscapes", "val", (512, 1024))
    c.views.crop_size = (512, 1024)
    c.views.base_width = 0  # images are cropped at their own size
    c.views.scale = (1.0, 1.0)
    c.views.flip = False

    c.model.head = "deeplab"
    return c


def trained(
    stage: ml_collections.ConfigDict, rate: float = 2.5e-4, horizon: int = 250_000
) -> ml_collections.ConfigDict:
    """SGD with their decay, their rates, and batch normalisation whose scales and biases are fixed."""
    stage.backbone_rate, stage.head_rate = rate, 10 * rate
    stage.weight_decay = 5e-4
    stage.schedule_steps = horizon  # at which the rate would be zero; they stop before
    stage.batch_norm = "affine_frozen"
    return stage


def adversarial(init: str, steps: int) -> ml_collections.ConfigDict:
    """A stage with their discriminator and binary cross entropy."""
    s = base.warmup(init, steps)
    s.gan = "vanilla"
    s.discriminator = "fully_convolutional"
    s.discriminator_weight = 0.5
    s.adversarial_weight = 0.001
    return s


def two_levels(c: ml_collections.ConfigDict, *stages: ml_collections.ConfigDict) -> None:
    """A second head on the third group of blocks, which learns the source with a weight of 0.1 (AdaptSegNet)."""
    c.model.auxiliary_head = "lower"
    for stage in stages:
        stage.auxiliary_ce_weight = 0.1
