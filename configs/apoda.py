"""APODA (Yang et al., AAAI 2020): a last layer that withstands attacks on features, GTA5 or SYNTHIA -> Cityscapes.

    python main.py --config=configs/apoda.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

`--config=configs/apoda.py:synthia` begins with SYNTHIA. Published: GTA5 45.9 mIoU; SYNTHIA 53.1 over 13 classes
(ProDA's Tables 1 and 2). This configuration has not been run in full.

Features of both domains are attacked at each position by itself, with the classifier and a discriminator of domains as
what the attacks are against, and the classifier is trained to be invariant to them. The authors' code is not public,
and its abstract and introduction were all that this was written from. Our reading, then, is this: features are the
backbone's and the classifier DeepLabv2's head; attacks follow the sign of the slope, one step of a tenth of a
position's root mean square for each of the two; the classifier's is towards a larger cross entropy on the source and a
larger entropy on the target, which has no labels; what is learnt of attacked features is cross entropy on the source
and, on the target, the divergence from what was said of them before, each with a weight of 1, and by the head alone.
The backbone learns from the source alone, and the discriminator sees features that are not attacked.
"""

import ml_collections

from proda_jax.configs import base, deeplabv2


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The configuration that begins with 'gta5' or 'synthia'."""
    c = deeplabv2.begin(form)
    c.task = f"apoda_{form}"
    c.stages = ("apoda",)
    c.apoda = deeplabv2.trained(apoda("imagenet", 150_000))
    return c


def apoda(init: str, steps: int) -> ml_collections.ConfigDict:
    """Attacks on features that the last layer learns to withstand, and no alignment."""
    s = base.warmup(init, steps)
    s.perturbation = 0.1
    s.adversarial_weight = 0.0
    s.adversarial_on = "features"
    s.gan = "vanilla"
    s.discriminator, s.discriminator_channels = "pixelwise", (256, 128)
    s.discriminator_weight = 0.5
    return s
