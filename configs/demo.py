"""Rendered streets on two CPU cores, every stage, within ten minutes: `python main.py --config=configs/demo.py`.

The method's constants belong to a 256-channel feature of a pretrained ResNet-101 and 62,000 steps; what is scaled to
this small network and its few hundred steps says so.
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
    c = base.get_config()
    c.task = "demo"
    c.stages = ("source", "warmup", "stage1", "stage2", "stage3")
    c.batch_size = 4
    c.log_every = 10
    c.evaluate_every = 200
    c.evaluate_batch_size = 10

    size = (96, 192)
    c.data.source = base.dataset("demo", "source_train", size)
    c.data.target = base.dataset("demo", "target_train", size)
    c.data.validation = base.dataset("demo", "target_val", size)

    c.model.depths = (1, 1, 1, 1)  # 1 M parameters instead of 66 M
    c.model.width = 16
    c.model.dilations = (1, 2, 4, 6)  # an output grid of 8 x 16 has no room for 24
    c.model.head_channels = 64
    c.model.initialisation = "he"  # no pretrained weights here
    c.model.input_mean = (0.45, 0.45, 0.45)  # training from scratch wants centred input
    c.model.input_std = (0.25, 0.25, 0.25)

    c.views.crop_size = (64, 128)
    c.views.base_width = 192
    c.views.scale = (0.75, 1.25)

    c.source = small(base.supervised("random", 600))
    c.warmup = jitter(small(base.warmup("source", 300)))
    c.warmup.batch_norm = "batch"  # running statistics of a network from scratch are not worth freezing
    c.stage1 = small(base.denoise("warmup", 300), rate=0.005)
    c.stage1.temperature = 1.0
    c.stage1.prototype_momentum = 0.99
    c.stage1.ema_momentum = 0.99
    c.stage1.prototype_min_pixels = 4
    c.stage1.prototype_init_min_pixels = 2
    c.stage2 = distill("stage1", 200)
    c.stage3 = distill("stage2", 200)
    return c


def small(stage: ml_collections.ConfigDict, rate: float = 0.02) -> ml_collections.ConfigDict:
    """Rates and schedule of a small network without pretrained weights."""
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
    stage = small(base.distill(teacher, teacher, steps), rate=0.005)
    stage.extra_norm = False
    return jitter(stage)
