"""Table 4: the threshold of confidence in pseudo labels while they are denoised, after stage 1."""

import ml_collections

from proda_jax.configs.studies import common

PAPER = {0.0: 53.7, 0.2: 53.8, 0.4: 53.7, 0.6: 53.7, 0.8: 53.8, 0.9: 53.7, 0.95: 53.3}


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "table4")
    return common.over(c, "table4", "Threshold of pseudo labels", "label_threshold", PAPER, paper="Table 4")
