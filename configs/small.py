"""Small networks from scratch, and runs of a few hundred steps: what the configurations that have them share.

The method's constants belong to a 256-channel feature of a pretrained ResNet-101 and 62,000 steps; what is scaled to
small networks and few steps says so.
"""

import ml_collections

from proda_jax.configs import base


def network(c: ml_collections.ConfigDict) -> None:
    """A ResNet of four blocks that knows nothing yet."""
    c.model.depths = (1, 1, 1, 1)  # 1.6 M parameters instead of 65 M
    c.model.width = 16
    c.model.dilations = (2, 6)  # an output grid of 9 x 17 has no room for 24
    c.model.head_channels = 64
    c.model.initialisation = "he"  # no pretrained weights here
    c.model.input_mean = (0.45, 0.45, 0.45)  # training from scratch wants centred input
    c.model.input_std = (0.25, 0.25, 0.25)


def warmup(init: str, steps: int) -> ml_collections.ConfigDict:
    """Adversarial warm-up of a small network."""
    stage = jitter(tuned(base.warmup(init, steps), rate=0.005))
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
    stage = tuned(base.pretrain(init, steps))
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
    return jitter(tuned(averaged(stage)))


def averaged(stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Pseudo labels two points better than the network that makes them, which is something to learn from."""
    stage.label_scales, stage.label_flip = (0.75, 1.0, 1.25), True
    return stage


def tuned(stage: ml_collections.ConfigDict, rate: float = 0.05) -> ml_collections.ConfigDict:
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
    stage = tuned(base.distill(teacher, teacher, steps))
    stage.extra_norm = False
    stage.label_threshold = 0.5  # 0.95 would leave sure classes alone, and a small network is sure of large ones
    return jitter(averaged(stage))
