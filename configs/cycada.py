"""CyCADA (Hoffman et al., ICML 2018), GTA5 -> Cityscapes: source images in the target's look, then aligned outputs.

    python main.py --config=configs/cycada.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

`--config=configs/cycada.py:synthia` begins with SYNTHIA. Published: 42.7 mIoU on GTA5 (ProDA's Table 1), none on
SYNTHIA. This configuration has not been run in full.

A network learns the source. Two generators learn to give source images the target's look and back, by cycles that
close, while that network is to label an image and its translation alike. Then a network learns the translated source
images, with the source's labels, and to look to a discriminator on the target as on these. The paper's alignment is of
features, by a discriminator of an FCN-8s or DRN-26; here it is AdaptSegNet's, of outputs, above the network that all
rows of the table have. What it is translated at (crops of 400 of images 1024 wide, and whole images in the end) and
trained for (20 passes over the target's images) follows CycleGAN's code.
"""

import ml_collections

from proda_jax.configs import base, deeplabv2

STEPS = 60_000  # of translation: 20 times the target's 2975 images, one in a step
CROP = (400, 400)


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The configuration that begins with 'gta5' or 'synthia'."""
    c = deeplabv2.begin(form)
    c.task = f"cycada_{form}"
    c.stages = ("source", "translation", "cycada")
    c.handover = "last"  # a translation has no score to choose by

    c.source = deeplabv2.trained(base.supervised("imagenet", 100_000))
    c.translation = translation("source", STEPS)
    c.cycada = deeplabv2.trained(deeplabv2.adversarial("imagenet", 100_000))
    c.cycada.source_images = "translation"
    return c


def translation(teacher: str, steps: int) -> ml_collections.ConfigDict:
    """CyCADA's translation of large images, whose crops are mirrored at random."""
    stage = base.translate(teacher, steps)
    with stage.unlocked():
        stage.views.base_width, stage.views.crop_size, stage.views.flip = 1024, CROP, True
    return stage
