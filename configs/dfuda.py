"""DFUDA's prototypes (github.com/ycheon1101/DFUDA, ICPR 2026), GTA5 -> Cityscapes: MIC with features like DINOv3's.

    python main.py --config=configs/dfuda.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.mix.foundation_file=<DINOv3 ViT-L/16's file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

Forms after a colon are those of `configs/mic.py`; the default is `:resnet101_hrda`. The authors report on GTA5, without
masks of SAM, which are not here, 64.81 mIoU with it and 76.18 with `:mit_b5_hrda`, where MIC alone has 63.53 and 75.19
(their README); this configuration itself has not been run in full.

Before the first step, DINOv3 sees the source's images once, at the size that the stage has them (theirs: 1280 x 720),
which gives mean directions of each class's features. A 1x1 convolution of the network's last map is to point where its
label's does.
"""

import ml_collections

from proda_jax.configs import mic


def get_config(form: str = "resnet101_hrda") -> ml_collections.ConfigDict:
    """The configuration of one of `mic.FORMS`."""
    c = mic.get_config(form)
    c.task = "dfuda"
    c.mix.foundation = "dinov3_vitl16"
    c.mix.foundation_weight, c.mix.foundation_temperature = 0.1, 0.07
    return c
