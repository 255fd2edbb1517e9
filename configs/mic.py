"""MIC (Hoyer et al., CVPR 2023), GTA5 -> Cityscapes: labels of whole images for images with hidden blocks.

    python main.py --config=configs/mic.py:mit_b5_hrda --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

Forms that end in `_hrda`, as the paper's best rows, add it to `configs/hrda.py`, those without to
`configs/daformer.py`; what stands before are the forms of `configs/dacs.py`. Others measured 63.53 mIoU on GTA5 with
`:resnet101_hrda` and 75.19 with `:mit_b5_hrda` (github.com/ycheon1101/DFUDA, README); this configuration itself has not
been run in full.
"""

import ml_collections

from proda_jax.configs import dacs, daformer, hrda

HRDA = "_hrda"
FORMS = (*dacs.FORMS, *(form + HRDA for form in dacs.FORMS))


def get_config(form: str = "resnet101") -> ml_collections.ConfigDict:
    """The configuration of one of `FORMS`."""
    dacs.check(form, FORMS)
    below = hrda if form.endswith(HRDA) else daformer
    c = below.get_config(form.removesuffix(HRDA))
    c.task = "mic"
    c.mix.masked_weight = 1.0
    if dacs.is_adverse(dacs.parts(form.removesuffix(HRDA))[1]):
        c.mix.mask_source, c.mix.mask_strong = True, False  # one image of each domain
    c.mix.mask_block = 64 if below is hrda else 32  # pixels of Cityscapes at its full resolution; half of them at half
    return c
