"""SePiCo (Xie et al., TPAMI 2023), GTA5 -> Cityscapes: DAFormer with features that are contrasted with their classes.

    python main.py --config=configs/sepico.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

Forms after a colon are those of `configs/dacs.py`. The authors report 61.0 mIoU on GTA5 and 58.1 on SYNTHIA with a
ResNet-101; this configuration itself has not been run in full.

From step 3,000 on, projected features of source and target are to be near the mean of their class and far from
others', with the variance of each class in the reckoning; `--config.mix.contrast_with=prototypes` and `bank` are the
other two of the paper. Not here: crops of the target that are chosen by its pseudo labels, the blur of source images,
and the term by which the mean feature is kept from all classes. Crops have 640 pixels, so images of the target are 640
high: how high the authors have them is not known to us. From day to night (`_dark_zurich`) they have 60,000 steps and
pairs of images of one place; here are 40,000 and no pairs.
"""

import ml_collections

from proda_jax.configs import dacs, daformer

STRONG = 0.2  # of the source's jitter, as of the target's


def get_config(form: str = "resnet101") -> ml_collections.ConfigDict:
    """The configuration of one of `dacs.FORMS`."""
    c = daformer.get_config(form)
    c.task = "sepico"
    sizes = {"gta5": (720, 1280), "synthia": (760, 1280), "cityscapes": (640, 1280), "adverse": (720, 1280)}
    dacs.data(c, dacs.parts(form)[1], sizes)
    c.views.crop_size = (640, 640)
    c.mix.feature_distance_weight, c.mix.feature_distance_classes = 0.0, ()
    c.mix.contrast_weight = 1.0
    c.mix.jitter.brightness = c.mix.jitter.contrast = c.mix.jitter.saturation = STRONG
    return c
