"""Figure 2: the pseudo labels of stage 1 as training proceeds, as pictures.

The figure shows those after 1,000, 10,000 and 40,000 steps and has no numbers.
"""

import ml_collections

from proda_jax.configs.studies import common

ROWS = (("warm-up", "warmup", None), ("stage 1", "stage1", None))


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "figure2")
    return common.study(
        c, "figure2", "Pseudo labels as training proceeds", ROWS, paper="Figure 2", gain_over="warmup",
        show=("label_quality", "pictures"),
    )  # fmt: skip
