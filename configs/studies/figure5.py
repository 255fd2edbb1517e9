"""Figure 5: target features in two dimensions: before adaptation, self-training, denoising, and the whole stage 1.

The figure has no numbers. The page maps the networks of the first seed.
"""

import ml_collections

from proda_jax.configs.studies import common


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "figure5")
    c.denoising = common.denoising(c)
    rows = [("before adaptation", "source", None), ("self-training", "self_training", None),
            ("denoising", "denoising", None), ("stage 1", "stage1", None)]  # fmt: skip
    return common.study(
        c, "figure5", "Features of the target", rows, paper="Figure 5", gain_over="source", show=("features",)
    )
