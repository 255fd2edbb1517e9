"""CPSL (Li et al., CVPR 2022), GTA5 -> Cityscapes: ProDA with prototypes that learn class-balanced assignments.

    python main.py --config=configs/cpsl.py --workdir=... \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes> \
        --config.model.imagenet_weights=<file> --config.model.self_supervised_weights=<file>

`--config=configs/cpsl.py:synthia` begins with SYNTHIA. The authors report 60.8 mIoU on GTA5 and 57.9 on SYNTHIA after
all stages, and 55.7 on GTA5 after stage 1, where ProDA has 53.7 (github.com/lslrh/CPSL, README). This configuration
itself has not been run in full.

Stage 1 alone is another than ProDA's: prototypes are compared by cosines and learn, at the head's rate, optimal
assignments of what the momentum encoder says, in which each class has its share of the warm-up network's predictions.
The network's features are contrasted with those of before, and boxes of source images pasted on half of the target
images. Three slips of the released code are mended: features of before have the classes that the momentum encoder gave
them (there, labels of other positions), labels of a box lie where its pixels do, and each image has a box of its own,
or none.
"""

import ml_collections

from proda_jax.configs import gta5, synthia

FORMS = {"gta5": gta5, "synthia": synthia}


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The configuration that begins with one of `FORMS`."""
    if form not in FORMS:
        raise ValueError(f"source {form!r} after the colon: expected {' or '.join(FORMS)}")
    c = FORMS[form].get_config()
    c.task = f"cpsl_{form}"
    self_labelled(c.stage1)
    return c


def self_labelled(stage: ml_collections.ConfigDict) -> None:
    """What CPSL changes in stage 1."""
    stage.prototype_distance, stage.temperature = "cosine", 0.08
    stage.self_label_weight, stage.prototype_momentum = 0.1, 0.999
    stage.head_rate = 5 * stage.backbone_rate
    stage.consistency_weight = 5.0
    stage.queue_contrast_weight, stage.cutmix_share = 0.001, 0.5
