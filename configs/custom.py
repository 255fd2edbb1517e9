"""Your own images: labelled ones of the source domain, unlabelled ones of the target domain.

    python main.py --config=configs/custom.py --config.data.raw_dir=<folder> --workdir=... \
        --config.model.imagenet_weights=<.npz>

The folder holds (names of an image and its label agree):

    source/images/*.{png,jpg}      source/labels/*.png
    target/images/*.{png,jpg}                                    no labels needed
    validation/images/*.{png,jpg}  validation/labels/*.png       a few labelled target images, for scores

A label is a PNG of one channel whose values are positions in the label space's list of classes (0, 1, ...); every
other value is ignored. Without pretrained weights start from `configs/camvid.py` instead, which trains a small network
from scratch, and exchange its data sets.
"""

import ml_collections

from configs import base

# What to change
LABEL_SPACE = "cityscapes19"  # whose classes the labels hold: cityscapes19, synthia16, camvid11
IMAGE_SIZE = (512, 1024)  # height, width in pixels, to which all images are resized
CROP_SIZE = (256, 512)  # what is trained on; multiples of 4
BATCH_SIZE = 4  # source images and target images in a step, over all devices
STEPS = 20_000  # of each stage


def get_config() -> ml_collections.ConfigDict:
    c = base.get_config()
    c.task = "custom"
    c.stages = ("warmup", "stage1", "stage2", "stage3")
    c.batch_size = BATCH_SIZE

    c.data.label_space = LABEL_SPACE
    c.data.source = base.dataset("folder", "source", IMAGE_SIZE)
    c.data.target = base.dataset("folder", "target", IMAGE_SIZE)
    c.data.validation = base.dataset("folder", "validation", IMAGE_SIZE)

    c.views.crop_size = CROP_SIZE
    c.views.base_width = IMAGE_SIZE[1]

    c.warmup = base.warmup("imagenet", STEPS)
    c.stage1 = base.denoise("warmup", STEPS)
    c.stage2 = base.distill("stage1", "imagenet", STEPS)
    c.stage3 = base.distill("stage2", "imagenet", STEPS)
    c.stage2.extra_norm = c.stage3.extra_norm = False  # it belongs to self-supervised weights
    for name in c.stages:
        c[name].schedule_steps = STEPS * 90 // 62  # the share of the schedule that the released code runs
    return c
