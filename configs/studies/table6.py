"""Table 6: where prototypes start, from source ground truth or target pseudo labels, after stage 1."""

import ml_collections

from proda_jax.configs.studies import common

PAPER = {"source": 53.6, "target": 53.7}


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "table6")
    return common.over(c, "table6", "Where prototypes start", "prototype_init", PAPER, paper="Table 6")
