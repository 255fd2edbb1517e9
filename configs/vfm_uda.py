"""VFM-UDA (Englert et al., 2024, arXiv:2406.09896), GTA5 -> Cityscapes: self-training above DINOv2.

    python main.py --config=configs/vfm_uda.py --workdir=... --config.model.imagenet_weights=<DINOv2's file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

Forms after a colon are `:dinov2_vitb14`, the default, and `:dinov2_vitl14`, with one of the tasks of `configs/dacs.py`
behind it, such as `:dinov2_vitl14_acdc`, or none. The abstract has 1.2 mIoU above MIC's with ViT-B and 3.1 with ViT-L,
on GTA5; this configuration itself has not been run in full.

DACS with masks and rare classes, without feature distance, on crops of 1024 pixels that the network sees at 1120, a
multiple of its patches. Blocks of pixels are hidden, where the paper hides patches by DINOv2's own token. What is not
known to us of this code is as in its successor, VFM-UDA++: margins, sizes of sources and their scale, ViT-L's rate from
GTA5. Left out are its pseudo labels of mirrored images and the weak jitter of all images, and its classifier's initial
kernel, N(0, 0.1) (here PyTorch's); whole images are scored, and not windows as in the successor. It computes
convolutions in bfloat16 in place of float16.
"""

import ml_collections

from proda_jax.configs import base, dacs

BACKBONES = ("dinov2_vitb14", "dinov2_vitl14")
FORMS = dacs.forms(BACKBONES)
SEEN, SIDE = 1120, 1024  # of a crop, pixels: as the network sees it, and of the image


def get_config(form: str = "dinov2_vitb14") -> ml_collections.ConfigDict:
    """The configuration of one of `FORMS`."""
    dacs.check(form, FORMS)
    backbone, task = dacs.parts(form)
    c = base.get_config()
    c.task = "vfm_uda"
    c.stages = ("mix",)
    c.batch_size = 8
    c.evaluate_every = 4000
    short = {"gta5": (1440, 2560), "synthia": (1024, 1725), "cityscapes": (1024, 2048), "adverse": (1024, 1820)}
    dacs.data(c, task, {name: tuple(round(n * SEEN / SIDE) for n in size) for name, size in short.items()})
    c.views.crop_size = (SEEN, SEEN)
    c.views.base_width, c.views.scale = 0, (0.9, 1.1)

    c.model.backbone, c.model.head = backbone, "light"
    c.model.initialisation, c.model.dtype = "pytorch", "bfloat16"
    c.mix = trained(base.mix("imagenet", dacs.STEPS), large=backbone == BACKBONES[1] and not dacs.is_adverse(task))
    return c


def trained(stage: ml_collections.ConfigDict, *, large: bool) -> ml_collections.ConfigDict:
    """Its optimizer, and what it takes of DAFormer and MIC; `large`: with the rate of ViT-L from rendered images."""
    stage.optimizer, stage.weight_decay = "adamw", 0.01
    stage.head_rate = (1e-5 if large else 5e-5) * 8**0.5  # times the root of the batch
    stage.backbone_rate = 0.1 * stage.head_rate
    stage.schedule, stage.schedule_steps = "linear", stage.steps
    stage.schedule_warmup, stage.schedule_warmup_start = 1500, 1e-3
    stage.ema_momentum = 0.999
    stage.rare_class_sampling, stage.rare_class_crop_pixels = True, round(6000 * (SEEN / SIDE) ** 2)
    stage.rare_class_temperature, stage.largest_class, stage.crop_tries = 0.05, 0.75, 20
    stage.masked_weight, stage.mask_block = 1.0, 64
    height, width = SEEN, 2 * SEEN
    sides = round(0.03 * width)
    stage.ignored_margins = (round(0.03 * height), round(0.25 * height), sides, sides)
    stage.margins_of = "image"
    return stage
