"""CRST with regularised labels, LRENT (Zou et al., ICCV 2019): CBST with soft labels.

    python main.py --config=configs/lrent.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

`--config=configs/lrent.py:synthia` begins with SYNTHIA. It has no row in Tables 1 and 2; this configuration itself has
not been run in full. `configs/cbst.py` says what differs. Besides, soft labels are kept at every fourth pixel, 16 GB of
them, and interpolated.
"""

import ml_collections

from proda_jax.configs import base, cbst


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The configuration that begins with one of `cbst.FORMS`."""
    c = cbst.get_config(form)
    c.task = f"lrent_{form}"
    for before, name, portion in zip(c.stages, c.stages[1:], cbst.PORTIONS, strict=False):
        c[name] = cbst.retrained(base.self_training(before, cbst.STEPS))
        c[name].label_portion = portion
        c[name].hard_labels, c[name].label_entropy = False, 0.25  # alpha
        c[name].soft_label_stride = 4
    return c
