"""CAG-UDA (Zhang et al., NeurIPS 2019), GTA5 -> Cityscapes: anchors of the source's classes label the target.

    python main.py --config=configs/cag.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

`--config=configs/cag.py:synthia` begins with SYNTHIA. Published: 50.2 mIoU on GTA5 (Table 1), 44.5 (51.5 over 13
classes) on SYNTHIA (Table 2); this configuration itself has not been run in full.
`--config.anchors1.anchor_gradient=released` (and of anchors2, anchors3) pulls on class vectors as the released code
does.

An adversarial warm-up; then, three times, anchors are mean features of the network so far on the source, and the next
one learns the source, the target by labels of nearest anchors and of confidence, and to stay near the anchors. ProDA
took its rates, sizes and schedule over. The network is DeepLabv3+ with a decoder, at output stride 8 here, 16 there.
"""

import ml_collections

from proda_jax.configs import base, cbst, gta5


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The configuration that begins with one of `cbst.FORMS`."""
    c = cbst.task(form)
    c.task = f"cag_{form}"
    c.views.base_width = 2200
    c.model.head = "deeplabv3plus"

    c.warmup = base.warmup("imagenet", gta5.STEPS)
    rounds = ("anchors1", "anchors2", "anchors3")
    c.stages = ("warmup", *rounds)
    for before, name in zip(c.stages, rounds, strict=False):
        c[name] = base.anchors(before, gta5.STEPS)
    return c
