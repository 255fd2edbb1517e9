"""Table 7: augmentation of the strong view, after stage 1."""

import ml_collections

from proda_jax.configs.studies import common

# how a row is called: the stage's own settings of views, the paper's mIoU
PAPER = {
    "crop": ({"randaugment": False, "cutout_fraction": 0.0}, 52.7),
    "crop, RandAugment": ({"cutout_fraction": 0.0}, 53.5),
    "crop, Cutout": ({"randaugment": False}, 53.2),
}


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "table7")
    rows = []
    for title, (views, score) in PAPER.items():
        stage = "view_" + title.lower().replace(", ", "_")
        c[stage] = common.variant(c.stage1, "stage1", views=views)
        rows.append((title, stage, score))
    rows.append(("crop, RandAugment, Cutout", "stage1", 53.7))
    return common.study(
        c, "table7", "Augmentation of the strong view", rows, paper="Table 7", gain_over=rows[0][1],
        notes=("Every strong view is mirrored with probability 1/2 besides, as in the released code.",),
    )  # fmt: skip
