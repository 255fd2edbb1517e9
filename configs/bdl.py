"""BDL (Li et al., CVPR 2019), GTA5 -> Cityscapes: adversarial alignment, and self-training with median thresholds.

    python main.py --config=configs/bdl.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

`--config=configs/bdl.py:synthia` begins with SYNTHIA. Published: 48.5 mIoU on GTA5 (Table 1), 51.4 over 13 classes on
SYNTHIA (Table 2), with source images that a cycle-consistent GAN has translated to the target. There is none here: name
a folder of images that are translated already (`raw_dir`), in the layout of the data set, or learn from them as they
are. This configuration itself has not been run in full.

A network with one head learns the source's labels, and to look to a discriminator on the target as on the source; then,
twice, so does one that starts from the same weights and learns from labels of the one before, too: those that are surer
than the median of their class, or than 0.9.
"""

import ml_collections

from proda_jax.configs import base, cbst


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The configuration that begins with one of `cbst.FORMS`."""
    c = cbst.task(form)
    c.task = f"bdl_{form}"
    c.stages = ("warmup", "round1", "round2")
    c.batch_size = 1
    c.data.source.image_size = (720, 1280)
    c.data.target.image_size = c.data.validation.image_size = (512, 1024)  # scored at the labels' size
    c.views.crop_size, c.views.scale, c.views.flip = (512, 1024), (1.0, 1.0), False

    c.warmup = aligned("imagenet", 80_000)
    for before, name in zip(c.stages, c.stages[1:], strict=False):
        c[name] = aligned("imagenet", 120_000)
        c[name].labels_from, c[name].label_weight = before, 1.0
    return c


def aligned(init: str, steps: int) -> ml_collections.ConfigDict:
    """The adversarial stage as AdaptSegNet has it, with one head."""
    stage = base.warmup(init, steps)
    stage.gan, stage.adversarial_weight = "vanilla", 0.001
    stage.weight_decay, stage.schedule_steps = 5e-4, 250_000
    return stage
