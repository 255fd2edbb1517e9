"""Seg-Uncertainty (Zheng and Yang, IJCAI 2020 and IJCV 2021): two heads, whose divergence says which labels to trust.

    python main.py --config=configs/seg_uncertainty.py:gta5 --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

First both heads are aligned and learn from what they say together, then from pseudo labels that count less where they
diverge. Published: GTA5 50.3 mIoU, SYNTHIA 47.9 over 16 classes and 54.9 over 13 (ProDA's Tables 1 and 2). This
configuration has not been run in full, and it is not all of the authors' code, which has a main head that sees the last
two groups of blocks, Nesterov's momentum, and in its second stage weighs classes, too, and drops a fifth of the
features, where ours drops a tenth in both.
"""

import ml_collections

from proda_jax.configs import base, deeplabv2

STEPS = 25_000  # of schedules of 100,000


def get_config(source: str = "gta5") -> ml_collections.ConfigDict:
    c = deeplabv2.begin(source)
    c.task = f"seg_uncertainty_{source}"
    c.stages = ("memory", "rectified")
    c.batch_size = 2
    c.data.target.image_size = (640, 1280)
    c.views.crop_size = (512, 1024)
    c.views.flip = True

    c.model.head = "released"
    c.model.feature_channels = 512
    c.model.auxiliary_head = "lower"
    c.model.auxiliary_weight = 0.5
    c.memory = deeplabv2.trained(memory("imagenet", STEPS), 2e-4, 100_000)
    c.memory.schedule_warmup, c.memory.schedule_warmup_start, c.memory.schedule_warmup_to = 5000, 0.1, "rate"
    c.memory.discriminator_warmup = False
    c.rectified = deeplabv2.trained(rectified("memory", STEPS), 1e-4, 100_000)
    c.rectified.batch_size = 9
    with c.rectified.unlocked():
        c.rectified.views.crop_size = (256, 512)
    c.memory.batch_norm = c.rectified.batch_norm = "batch"
    return c


def memory(init: str, steps: int) -> ml_collections.ConfigDict:
    """Alignment of both heads, each of which is to say what both say together."""
    s = base.warmup(init, steps)
    s.discriminated = "heads"
    s.discriminator, s.discriminator_channels = "multi_scale", (32, 32, 32, 32, 64)
    s.gradient_penalty = 0.01
    s.adversarial_weight, s.auxiliary_adversarial_weight = 0.002, 0.0004  # 0.001 and 0.0002 of twice the loss
    s.auxiliary_ce_weight = 0.5
    s.rare_weight = 7.0
    s.hard_share = 0.2
    s.memory_weight = 0.1
    s.memory_after = steps * 3 // 5
    return s


def rectified(teacher: str, steps: int) -> ml_collections.ConfigDict:
    """Pseudo labels of all target pixels, and nothing else; the network goes on from its teacher."""
    s = base.distill(teacher, teacher, steps)
    s.extra_norm = False
    s.label_selector = "none"
    s.label_scales, s.label_flip = (1.0, 1.25), True
    s.target_view = "weak"
    s.distillation_weight = s.source_weight = 0.0
    s.rectified, s.auxiliary_ce_weight = True, 0.5
    return s
