"""AdaptSegNet (Tsai et al., CVPR 2018): the output is aligned, GTA5 or SYNTHIA -> Cityscapes.

    python main.py --config=configs/adaptsegnet.py:gta5_multi --workdir=... \
        --config.model.imagenet_weights=<file> --config.data.source.raw_dir=<GTA5> \
        --config.data.target.raw_dir=<Cityscapes>

Published: GTA5 41.4 mIoU at a single level, 42.4 at two (`gta5_multi`); SYNTHIA 45.9 over 13 classes (ProDA's Tables 1
and 2). This configuration has not been run in full. The authors advise adversarial weights of (0.0005, 0.00005) at two
levels for PyTorch since 0.4; those of the paper stand here.
"""

import ml_collections

from proda_jax.configs import deeplabv2

FORMS = ("gta5", "gta5_ls", "gta5_multi", "synthia", "synthia_multi")
STEPS = 150_000  # of a schedule of 250,000


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """One level; with '_multi' two, with '_ls' the least-squares GAN at one."""
    if form not in FORMS:
        raise ValueError(f"form {form!r} after the colon: expected one of {', '.join(FORMS)}")
    source, _, kind = form.partition("_")
    c = deeplabv2.begin(source)
    c.task = f"adaptsegnet_{form}"
    c.stages = ("adaptsegnet",)
    c.model.dilations = (6, 12)  # their head returns before the two others are added

    c.adaptsegnet = deeplabv2.trained(deeplabv2.adversarial("imagenet", STEPS))
    if kind == "ls":
        c.adaptsegnet.gan, c.adaptsegnet.adversarial_weight = "ls", 0.01
    if kind == "multi":
        deeplabv2.two_levels(c, c.adaptsegnet)
        c.adaptsegnet.auxiliary_adversarial_weight = 0.0002
    return c
