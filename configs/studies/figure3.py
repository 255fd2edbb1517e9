"""Figure 3: accuracy and mIoU of pseudo labels over training, ours against rounds of conventional self-training.

The figure has no readable values. Quality is measured on held-out validation images with soft labels of their own, so
that labels of target training images stay unread. Conventional self-training has two rounds of as many steps together
as stage 1: its labels change after each of them, those of stage 1 at every step.
"""

import ml_collections

from proda_jax.configs.studies import common


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "figure3")
    half = c.self_training.steps // 2
    c.round1 = common.variant(c.self_training, "self_training", steps=half)
    c.round2 = common.variant(c.self_training, "self_training", steps=half, init="round1", labels_from="round1")
    if form != "gta5":
        c.round1.schedule_steps = c.round2.schedule_steps = half  # rates of short runs reach zero at a stage's end
    rows = [("self-training, round 1", "round1", None), ("self-training, round 2", "round2", None),
            ("stage 1", "stage1", None)]  # fmt: skip
    return common.study(
        c, "figure3", "Quality of pseudo labels over training", rows, paper="Figure 3", gain_over="round1",
        show=("label_quality", "curves"),
        notes=("The figure has no readable values, so there are none beside ours.",),
    )  # fmt: skip
