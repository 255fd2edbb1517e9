"""DACS (Tranheden et al., WACV 2021), GTA5 -> Cityscapes, trained as DAFormer trains it.

    python main.py --config=configs/dacs.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

`--config=configs/dacs.py:mit_b5` is the same above SegFormer's MiT-B5. A task may follow: `:resnet101_synthia` begins
with SYNTHIA, scored over its 16 classes; `:resnet101_acdc` and `:mit_b5_dark_zurich` go from Cityscapes to ACDC, each
of its four weathers a target and a validation set, or to Dark Zurich's nights. 55.93 mIoU on GTA5 with a ResNet-101 is
what others measured in this protocol (github.com/ycheon1101/DFUDA, README); this configuration itself has not been run
in full.

From ImageNet weights, 40,000 steps of AdamW on two source and two target crops: cross entropy on the source, and on
target crops on which half of the classes of a source crop are pasted, labelled by a mean teacher. Their colours are
jittered as by the kornia that the released codes pin (`--config.mix.strong_colours=torchvision`: as by later ones).
Three weak spots of the released codes are mended, each with a setting that brings it back:
`--config.mix.weight_over=batch`, `--config.mix.teacher_statistics=batch` and, of DAFormer's,
`--config.mix.mix_classes=batch`. The ResNet is mmsegmentation's `resnet101_v1c`, which has three 3x3 convolutions at
its beginning; torchvision's takes `--config.model.deep_stem=False`. Of MiT, what is not decayed there is normalisation
alone; here no bias is, either.
"""

from collections.abc import Mapping

import ml_collections

from proda_jax.configs import base

BACKBONES = ("resnet101", "mit_b5")
GTA5, SYNTHIA, ACDC, DARK_ZURICH = TASKS = ("gta5", "synthia", "acdc", "dark_zurich")
WEATHERS = ("fog", "night", "rain", "snow")
STEPS = 40_000


def forms(backbones: tuple[str, ...]) -> tuple[str, ...]:
    """A backbone alone, which begins with GTA5, or with one of the other tasks behind it."""
    return (*backbones, *(f"{backbone}_{task}" for task in TASKS[1:] for backbone in backbones))


FORMS = forms(BACKBONES)


def get_config(form: str = "resnet101") -> ml_collections.ConfigDict:
    """The configuration of one of `FORMS`."""
    check(form, FORMS)
    backbone, task = parts(form)
    c = base.get_config()
    c.task = "dacs"
    c.stages = ("mix",)
    c.batch_size = 2  # source crops, and target crops
    c.evaluate_every = 4000

    data(c, task, {"gta5": (720, 1280), "synthia": (760, 1280), "cityscapes": (512, 1024), "adverse": (540, 960)})
    c.views.crop_size = (512, 512)
    c.views.base_width = 0  # images are cropped at their own size
    c.views.scale = (1.0, 1.0)

    network(c, backbone)
    c.mix = trained(base.mix("imagenet", STEPS))
    c.mix.decay_vectors = backbone == "resnet101"
    return c


def check(form: str, forms: tuple[str, ...]) -> None:
    """Refuses another form than one of these."""
    if form not in forms:
        raise ValueError(f"{form!r} after the colon: expected {' or '.join(forms)}")


def parts(form: str) -> tuple[str, str]:
    """The backbone and the task of a form."""
    task = next((task for task in TASKS if form.endswith(f"_{task}")), GTA5)
    return form.removesuffix(f"_{task}"), task


def is_adverse(task: str) -> bool:
    """Whether a task goes from Cityscapes to bad weather or night."""
    return task in (ACDC, DARK_ZURICH)


def data(c: ml_collections.ConfigDict, task: str, sizes: Mapping[str, tuple[int, int]]) -> None:
    """The data sets of a task, whole images of which are scored at the labels' size.

    `sizes`: height and width of images of 'gta5', 'synthia', 'cityscapes', and of 'adverse' weather.
    """
    c.data.label_space = "synthia16" if task == SYNTHIA else "cityscapes19"
    if not is_adverse(task):
        c.data.source = base.dataset(task, "train", sizes[task])
        c.data.target = base.dataset("cityscapes", "train", sizes["cityscapes"])
        c.data.validation = base.dataset("cityscapes", "val", sizes["cityscapes"])
        return
    c.data.source, size = base.dataset("cityscapes", "train", sizes["cityscapes"]), sizes["adverse"]
    if task == DARK_ZURICH:
        c.data.target = base.dataset(task, "night_train", size)
        c.data.validation = base.dataset(task, "val", size)
    else:
        given = {role: tuple(base.dataset(task, f"{weather}_{split}", size) for weather in WEATHERS)
                 for role, split in (("target", "train"), ("validation", "val"))}  # fmt: skip
        base.give(c, **given)


def network(c: ml_collections.ConfigDict, backbone: str) -> None:
    """DeepLabv2 with two branches above a ResNet-101, or DAFormer's decoder above MiT-B5."""
    c.model.backbone = backbone
    c.model.initialisation = "he"  # of what has no weights
    if backbone == "resnet101":
        # mmsegmentation's ResNetV1c; torchvision's weights want --config.model.deep_stem=False
        c.model.stride_in, c.model.contract_dilation, c.model.ceil_mode = "3x3", True, False
        c.model.deep_stem, c.model.weights_input = True, "imagenet"
        c.model.head, c.model.dilations = "deeplab", (6, 12)  # as AdaptSegNet's code, and DAFormer's on purpose
    else:
        c.model.head, c.model.dilations = "daformer", (6, 12, 18)
        c.model.drop_path = 0.1


def trained(stage: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """DAFormer's optimizer and rates, which it also trains its rivals with."""
    stage.optimizer, stage.weight_decay = "adamw", 0.01
    stage.largest_class = 0.75  # of source crops, whatever the method
    stage.strong_colours = "kornia"  # 0.5.8, as the released codes pin it
    stage.backbone_rate, stage.head_rate = 6e-5, 6e-4
    stage.schedule, stage.schedule_steps = "linear", stage.steps
    stage.schedule_warmup, stage.schedule_warmup_start = 1500, 1e-6
    return stage
