"""CRST with a regularised network, MRKLD (Zou et al., ICCV 2019): CBST whose predictions are kept from being too sure.

    python main.py --config=configs/mrkld.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

`--config=configs/mrkld.py:synthia` begins with SYNTHIA. Published: 47.1 mIoU on GTA5 (Table 1), 43.8 (50.1 over 13
classes) on SYNTHIA (Table 2); this configuration itself has not been run in full. `configs/cbst.py` says what differs.
"""

import ml_collections

from proda_jax.configs import cbst


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The configuration that begins with one of `cbst.FORMS`."""
    c = cbst.get_config(form)
    c.task = f"mrkld_{form}"
    for name in c.stages[1:]:
        c[name].regulariser, c[name].regulariser_over = "mrkld", "labels"
        c[name].regulariser_weight = 0.01  # the paper's 0.1, which the released code multiplies with twice
    return c
