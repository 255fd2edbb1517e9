"""FDA (Yang and Soatto, CVPR 2020), GTA5 -> Cityscapes: source images with the target's low frequencies, and entropy.

    python main.py --config=configs/fda.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

`--config=configs/fda.py:synthia` begins with SYNTHIA. It has no row in Tables 1 and 2; this configuration itself
has not been run in full. Other than in the paper, labels of a round are those of one network, and not of the mean of
three that learnt with different beta.

A network learns source images whose amplitudes of the lowest frequencies are those of a target image, and to be sure of
the target. Then, twice, it starts anew and learns from labels of the one before, too: of each class, the surest third.
"""

import ml_collections

from proda_jax.configs import base, cbst

BETA = 0.01  # and 0.05, 0.09 in the paper's other networks


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The configuration that begins with one of `cbst.FORMS`."""
    c = cbst.task(form)
    c.task = f"fda_{form}"
    c.stages = ("adapted", "round1", "round2")
    c.batch_size = 1
    c.data.source.image_size = (720, 1280)
    c.data.target.image_size = c.data.validation.image_size = (512, 1024)  # scored at the labels' size
    c.views.crop_size, c.views.scale, c.views.flip = (512, 1024), (1.0, 1.0), False
    c.views.target_stride = 1

    c.adapted = lent(base.supervised("imagenet", 150_000))
    for before, name in zip(c.stages, c.stages[1:], strict=False):
        c[name] = lent(base.distill(before, "imagenet", 150_000))
        c[name].distillation_weight, c[name].target_view, c[name].extra_norm = 0.0, "weak", False
        c[name].label_selector, c[name].label_portion, c[name].label_every = "class_portion", 0.34, 1
        c[name].label_threshold, c[name].label_flip = 0.9, False
    return c


def lent(stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """What all stages have."""
    stage.fourier_beta = BETA
    stage.regulariser, stage.regulariser_weight = "robust_entropy", 0.005
    stage.backbone_rate, stage.head_rate, stage.weight_decay = 2.5e-4, 2.5e-3, 5e-4
    stage.schedule_steps = stage.steps
    return stage
