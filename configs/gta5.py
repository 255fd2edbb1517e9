"""GTA5 -> Cityscapes, the recipe we recommend; the paper reports 57.5 mIoU for its own run of it (Table 1).

    python main.py --config=configs/gta5.py --workdir=... \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes> \
        --config.model.imagenet_weights=<file> --config.model.self_supervised_weights=<file>

Weights are files of any format that docs/weights.md names, PyTorch's too. A checkpoint of the released code takes the
place of the stage that it comes from; stages before it are left out of `stages`:

    --config.warmup.weights=<warm-up .pkl>                                            stage 1 starts from it
    --config.stage1.weights=<stage 1 .pkl> --config.stages="('stage1', 'stage2', 'stage3')"     it teaches stage 2
    --config.stage2.weights=<stage 2 .pkl> --config.stages="('stage2', 'stage3')"               it teaches stage 3
    --config.stage3.weights=<stage 3 .pkl> --config.stages="('stage3',)"                        it is scored

`python main.py --mode=evaluate --config=configs/gta5_released.py --config.init_from=<.pkl> \
--config.data.target.raw_dir=<Cityscapes> --config.data.data_dir=<prepared>` scores any of them without a workdir.

The settings are those of `configs/base.py`; this file says which stages run, where they start and for how long.
"""

import ml_collections

from proda_jax.configs import base

STEPS = 62_000  # of each stage: about 83 epochs of 2975 images in batches of 4 (released; Section 5.1: 80 epochs)


def get_config() -> ml_collections.ConfigDict:
    c = base.get_config()
    c.task = "gta5"
    c.stages = ("warmup", "stage1", "stage2", "stage3")
    c.evaluate_every = 1000  # steps (released)

    c.data.label_space = "cityscapes19"  # Table 1
    c.data.source = base.dataset("gta5", "train", (1052, 1914))  # height, width in pixels, as published
    c.data.target = base.dataset("cityscapes", "train", (1024, 2048))
    c.data.validation = base.dataset("cityscapes", "val", (1024, 2048))

    c.views.base_width = 2200  # (released)

    c.warmup = base.warmup("imagenet", STEPS)  # Algorithm 1, line 1
    c.stage1 = base.denoise("warmup", STEPS)  # lines 2 to 20
    c.stage2 = base.distill("stage1", "self_supervised", STEPS)  # lines 22 to 34
    c.stage3 = base.distill("stage2", "self_supervised", STEPS)  # the same again, with stage 2 as teacher
    return c
