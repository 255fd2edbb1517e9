"""MIC (Hoyer et al., CVPR 2023) on DAFormer, GTA5 -> Cityscapes: labels of whole images for images with hidden blocks.

    python main.py --config=configs/mic.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

`--config=configs/mic.py:mit_b5` is the same above SegFormer's MiT-B5. Others measured 63.53 mIoU with a ResNet-101
and 75.19 with MiT-B5 (github.com/ycheon1101/DFUDA, README), of MIC on HRDA's two resolutions, which this is without:
expect less. This configuration itself has not been run in full.
"""

import ml_collections

from proda_jax.configs import daformer


def get_config(form: str = "resnet101") -> ml_collections.ConfigDict:
    """The configuration above one of the backbones in `dacs.FORMS`."""
    c = daformer.get_config(form)
    c.task = "mic"
    c.mix.masked_weight = 1.0
    c.mix.mask_block = 32  # at half the resolution of Cityscapes; 64 at its full one
    return c
