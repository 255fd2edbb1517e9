"""Rendered streets on two CPU cores, every stage, in about ten minutes: `python main.py --config=configs/demo.py`.

The method's constants belong to a 256-channel feature of a pretrained ResNet-101 and 62,000 steps; what is scaled to
this small network and its few hundred steps says so.
"""

import ml_collections

from proda_jax.configs import base


def get_config() -> ml_collections.ConfigDict:
    c = base.get_config()
    c.task = "demo"
    c.stages = ("source", "warmup", "stage1", "stage2", "stage3")
    c.batch_size = 4
    c.log_every = 10
    c.evaluate_every = 75
    c.evaluate_batch_size = 10

    size = (96, 192)
    c.data.source = base.dataset("demo", "source_train", size)
    c.data.target = base.dataset("demo", "target_train", size)
    c.data.validation = base.dataset("demo", "target_val", size)
    c.data.allow = ("absent_classes",)  # no train runs through these streets

    c.model.depths = (1, 1, 1, 1)  # 1.6 M parameters instead of 65 M
    c.model.width = 16
    c.model.dilations = (2, 6)  # an output grid of 9 x 17 has no room for 24
    c.model.head_channels = 64
    c.model.initialisation = "he"  # no pretrained weights here
    c.model.input_mean = (0.45, 0.45, 0.45)  # training from scratch wants centred input
    c.model.input_std = (0.25, 0.25, 0.25)

    c.views.crop_size = (64, 128)
    c.views.scale = (0.75, 1.25)
    c.views.target_stride = 2  # an image is 192 pixels wide, not 2,048: every fourth pixel would be too coarse

    c.source = small(base.supervised("random", 600))
    c.warmup = warmup("source", 150)
    c.stage1 = denoise("warmup", 150)
    c.stage2 = distill("stage1", 150)
    c.stage3 = distill("stage2", 150)
    for stage in (c.stage1, c.stage2, c.stage3):
        stage.label_scales = (1.0,)  # predictions of three sizes take as long as 50 steps
    return c


def warmup(init: str, steps: int) -> ml_collections.ConfigDict:
    """Adversarial warm-up of a small network."""
    stage = jitter(small(base.warmup(init, steps), rate=0.005))
    stage.discriminator_channels = (16, 32, 64, 128)  # in proportion to the network
    stage.batch_norm = "batch"  # running statistics of a network from scratch are not worth freezing
    return stage


def denoise(init: str, steps: int) -> ml_collections.ConfigDict:
    """Stage 1 with what is a rate scaled from 62,000 steps to a few hundred, and sizes to small images."""
    stage = from_soft_labels(base.denoise(init, steps))
    stage.temperature = 2.0  # the nearest prototype is 5.5 away, the second 7.7, all of them 10 on average
    stage.prototype_momentum = 0.99  # the method's 0.9999 over 62,000 steps
    stage.ema_momentum = 0.99  # the method's 0.999 likewise
    stage.ce_weight, stage.rce_weight = 1.0, 0.0  # the reverse term's bounded gradient is too slow for rare classes
    stage.regulariser_weight = 0.0  # as on SYNTHIA: nothing collapses in so few steps
    stage.prototype_init_min_pixels = 2  # of 13 x 25
    return stage


def pretrain(init: str, steps: int) -> ml_collections.ConfigDict:
    """Self-supervised pretraining of a small network on small images."""
    stage = small(base.pretrain(init, steps))
    stage.batch_size = 16  # of each domain: others of the batch are what an image is told apart from
    stage.hidden_channels, stage.projection_channels = 512, 64  # of a backbone of 512
    stage.contrast_temperature = 0.5  # SimCLR's for small batches
    stage.views.scale = (0.75, 1.5)  # the smallest is still higher and wider than a crop
    return stage


def self_training(init: str, steps: int) -> ml_collections.ConfigDict:
    """Conventional self-training with all that stage 1 has, too."""
    return from_soft_labels(base.self_training(init, steps))


def from_soft_labels(stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """What stage 1 and self-training have in common, so that they compare."""
    stage.soft_label_interpolation = "logits"  # the network's cells are wider than poles: blurred labels lose them
    stage.soft_label_stride = 4  # of labels kept on the output grid nothing but the mirror image's share is better
    return jitter(small(averaged(stage)))


def averaged(stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Pseudo labels two points better than the network that makes them, which is something to learn from."""
    stage.label_scales, stage.label_flip = (0.75, 1.0, 1.25), True
    return stage


def small(stage: ml_collections.ConfigDict, rate: float = 0.05) -> ml_collections.ConfigDict:
    """Rates and schedule of a small network without pretrained weights.

    Later stages start again at the first rate: a gentle one keeps what the network knows and learns little new.
    """
    stage.backbone_rate = stage.head_rate = rate
    stage.schedule_steps = stage.steps  # decays to zero within the stage
    return stage


def jitter(stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Colour augmentation of the source."""
    stage.jitter.brightness = stage.jitter.contrast = stage.jitter.saturation = 0.4
    stage.jitter.white_balance = 0.2
    return stage


def distill(teacher: str, steps: int) -> ml_collections.ConfigDict:
    """Distillation without self-supervised weights: the student starts as its teacher."""
    stage = small(base.distill(teacher, teacher, steps))
    stage.extra_norm = False
    stage.label_threshold = 0.5  # 0.95 would leave sure classes alone, and a small network is sure of large ones
    return jitter(averaged(stage))
