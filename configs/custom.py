"""Your own images: labelled ones of the source domain, unlabelled ones of the target domain.

    python main.py --config=configs/custom.py --workdir=... --config.model.imagenet_weights=<file>

Change what stands between the lines, in this file or a copy of it. Look at your data before training on it:
`python -m data_prep.prepare --config=configs/custom.py --data_dir=...` says what they hold and draws a contact sheet.
Without pretrained weights start from `configs/camvid.py` instead, which trains a small network from scratch, and give
it the data sets of this one.
"""

import ml_collections

from proda_jax.configs import base

# ---------------------------------------------------------------------------------------------------------------------
CLASSES = {  # what to tell apart, and its colour (red, green, blue) in pictures
    "road": (128, 64, 128),
    "building": (70, 70, 70),
    "vegetation": (107, 142, 35),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "car": (0, 0, 142),
}
LABEL_VALUES = None  # {7: "road", 26: "car", ...} or {(128, 64, 128): "road", ...}; None: 0 is the first class, ...
SOURCE_IMAGES = "data/simulator/images"  # PNG or JPEG, subfolders included; or a pattern: "data/*_rgb.png"
SOURCE_LABELS = "data/simulator/labels"  # PNG of the same names; what '*' stands for, if a pattern: "data/*_label.png"
TARGET_IMAGES = "data/photos"
VALIDATION_IMAGES = None  # a few labelled images of the target domain give scores; without any there are none
VALIDATION_LABELS = None
IMAGE_SIZE = (512, 1024)  # height, width in pixels, to which all images are resized
CROP_SIZE = (256, 512)  # what is trained on; multiples of 4
BATCH_SIZE = 4  # source images and target images in a step, over all devices
STEPS = 20_000  # of each stage
# ---------------------------------------------------------------------------------------------------------------------


def get_config() -> ml_collections.ConfigDict:
    c = base.get_config()
    c.task = "custom"
    c.stages = ("warmup", "stage1", "stage2", "stage3")
    c.batch_size = BATCH_SIZE

    c.data.label_space = "custom"
    c.data.classes, c.data.colors = tuple(CLASSES), tuple(CLASSES.values())
    c.data.source = base.folder("source", SOURCE_IMAGES, SOURCE_LABELS, IMAGE_SIZE, LABEL_VALUES)
    c.data.target = base.folder("target", TARGET_IMAGES, None, IMAGE_SIZE)
    c.data.validation = base.folder("validation", VALIDATION_IMAGES, VALIDATION_LABELS, IMAGE_SIZE, LABEL_VALUES)

    c.views.crop_size = CROP_SIZE

    c.warmup = base.warmup("imagenet", STEPS)
    c.stage1 = base.denoise("warmup", STEPS)
    c.stage2 = base.distill("stage1", "imagenet", STEPS)
    c.stage3 = base.distill("stage2", "imagenet", STEPS)
    c.stage2.extra_norm = c.stage3.extra_norm = False  # it belongs to self-supervised weights
    for name in c.stages:
        c[name].schedule_steps = STEPS * 90 // 62  # the share of the schedule that the released code runs
    return c
