"""PatchAlign (Tsai et al., ICCV 2019): patches of the output are aligned by their modes, GTA5 or SYNTHIA -> Cityscapes.

    python main.py --config=configs/patchalign.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

`--config=configs/patchalign.py:synthia` begins with SYNTHIA. Published: GTA5 46.5 mIoU; SYNTHIA 40.0, 46.5 over 13
classes (ProDA's Tables 1 and 2). This configuration has not been run in full.

AdaptSegNet at one level, and beside it: the labels of the source's patches of 32 x 64 pixels have K = 50 modes, by
k-means of the histograms of their quarters; two layers on the output learn to say which mode a patch is of, and a
discriminator is to find a target patch by its modes like one of the source. The authors' code is not public, and its
abstract and excerpts of the paper were all that this was written from. Our reading, then, is this: the layers see the
means of a patch's quarters, have 512 channels between them and learn at the discriminators' rate; histograms are of
shares of all of a quarter's pixels; k-means sees 100,000 patches; the weights are 0.01 of the modes and 0.0005 of the
discriminator of patches.
"""

import ml_collections

from proda_jax.configs import deeplabv2


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The configuration that begins with 'gta5' or 'synthia'."""
    c = deeplabv2.begin(form)
    c.task = f"patchalign_{form}"
    c.stages = ("patchalign",)
    c.patchalign = deeplabv2.trained(patchalign("imagenet", 150_000))
    return c


def patchalign(init: str, steps: int) -> ml_collections.ConfigDict:
    """Alignment of the output, as AdaptSegNet has it, and of its patches."""
    stage = deeplabv2.adversarial(init, steps)
    stage.patch_modes = 50
    return stage
