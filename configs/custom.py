"""Your own images: labelled ones of the source domain, unlabelled ones of the target domain.

    python main.py --config=configs/custom.py:lite --workdir=...
    python main.py --config=configs/custom.py --workdir=... --config.model.imagenet_weights=<file>

Change what stands between the lines, in this file or a copy of it. Look at your data before training on it:
`python -m data_prep.prepare --config=configs/custom.py --data_dir=...` says what they hold and draws a contact sheet.
`:lite` trains EfficientNet-Lite0, whose ImageNet weights come with the requirements, also on a CPU: on the source, then
on mixed images (stage `mix`). Without it, it is the paper's ResNet-101, stages and rates, which want a GPU and
torchvision's file of weights: its stride and how it wants its images are torchvision's, not those of the released code.
"""

import ml_collections

from proda_jax.configs import base, lite

FORMS = ("resnet101", "lite")

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
SOURCE_IMAGES = "data/simulator/images"  # PNG, JPEG, TIFF, ..., subfolders included; or a pattern: "data/*_rgb.png"
SOURCE_LABELS = "data/simulator/labels"  # PNG of the same names; what '*' stands for, if a pattern: "data/*_label.png"
TARGET_IMAGES = "data/photos"
VALIDATION_IMAGES = None  # a few labelled images of the target domain give scores; without any there are none
VALIDATION_LABELS = None
IMAGE_SIZE = (512, 1024)  # height, width in pixels, to which all images are resized; scores are at the labels' own size
CROP_SIZE = (256, 512)  # what is trained on; multiples of 4
BATCH_SIZE = 4  # source images and target images in a step, over all devices
STEPS = 20_000  # of each of the paper's stages
LITE_STEPS = 1_500  # of each of `:lite`'s two: enough for a few hundred images
# ---------------------------------------------------------------------------------------------------------------------


def get_config(form: str = "resnet101") -> ml_collections.ConfigDict:
    """The configuration of one of `FORMS`, what follows the colon after the file's name."""
    if form not in FORMS:
        raise ValueError(f"configs/custom.py:{form}: expected configs/custom.py or configs/custom.py:lite")
    c = base.get_config()
    c.task = "custom"
    c.batch_size = BATCH_SIZE

    c.data.label_space = "custom"
    c.data.classes, c.data.colors = tuple(CLASSES), tuple(CLASSES.values())
    c.data.source = base.folder("source", SOURCE_IMAGES, SOURCE_LABELS, IMAGE_SIZE, LABEL_VALUES)
    c.data.target = base.folder("target", TARGET_IMAGES, None, IMAGE_SIZE)
    c.data.validation = base.folder("validation", VALIDATION_IMAGES, VALIDATION_LABELS, IMAGE_SIZE, LABEL_VALUES)

    c.views.crop_size = CROP_SIZE

    if form == "lite":
        one_stage(c)
    else:
        paper(c)
    return c


def paper(c: ml_collections.ConfigDict) -> None:
    """The paper's stages from a ResNet-101 that knows ImageNet."""
    c.model.stride_in, c.model.weights_input = "3x3", "imagenet"
    c.stages = ("warmup", "stage1", "stage2", "stage3")
    c.warmup = base.warmup("imagenet", STEPS)
    c.stage1 = base.denoise("warmup", STEPS)
    c.stage2 = base.distill("stage1", "imagenet", STEPS)
    c.stage3 = base.distill("stage2", "imagenet", STEPS)
    c.stage2.extra_norm = c.stage3.extra_norm = False  # it belongs to self-supervised weights
    for name in c.stages:
        c[name].schedule_steps = STEPS * 90 // 62  # the share of the schedule that the released code runs


def one_stage(c: ml_collections.ConfigDict) -> None:
    """The source with rare classes drawn more often, then self-training on mixed images, at the rates of CamVid's."""
    lite.network(c)
    c.stages = ("source", "mix")
    c.source = lite.supervised("imagenet", LITE_STEPS)
    c.mix = lite.mix("source", LITE_STEPS)
    for name in c.stages:
        lite.draw_rare_classes(c[name], IMAGE_SIZE, CROP_SIZE)
