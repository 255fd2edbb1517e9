"""HRDA (Hoyer et al., ECCV 2022), GTA5 -> Cityscapes: DAFormer at two resolutions, from crops of 1024 pixels.

    python main.py --config=configs/hrda.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

Forms after a colon are those of `configs/dacs.py`, such as `:mit_b5`. Others measured 62.74 mIoU on GTA5 with a
ResNet-101 and 73.72 with MiT-B5 (github.com/ycheon1101/DFUDA, README); this configuration itself has not been run in
full.

The network sees a crop at half its size and a window of 512 pixels of it as it is; an attention joins their class
scores. Whole images are seen likewise, with windows all over them, where the released code cuts them into overlapping
crops of 1024 first. The attention has the same light decoder above each backbone.
"""

import ml_collections

from proda_jax.configs import dacs, daformer


def get_config(form: str = "resnet101") -> ml_collections.ConfigDict:
    """The configuration of one of `dacs.FORMS`."""
    c = daformer.get_config(form)
    c.task = "hrda"
    at_two_resolutions(c, form)
    return c


def at_two_resolutions(c: ml_collections.ConfigDict, form: str) -> None:
    """Data at twice DAFormer's size, and what HRDA changes with it."""
    task, cityscapes = dacs.parts(form)[1], (1024, 2048)
    sizes = {"gta5": (1440, 2560), "synthia": (1520, 2560), "cityscapes": cityscapes, "adverse": (1080, 1920)}
    dacs.data(c, task, sizes)
    c.views.crop_size, c.model.detail_size = (1024, 1024), (512, 512)
    c.mix.detail_weight = 0.1
    c.mix.rare_class_crop_pixels = 6000  # twice 3000, as a crop has four times the pixels
    if not dacs.is_adverse(task):
        c.mix.ignored_margins, c.mix.margins_of = (30, 240, 30, 30), "image"
