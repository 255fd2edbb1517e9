"""Table 9: alpha and beta of the symmetric cross entropy (Equation 7), after stage 1."""

import ml_collections

from proda_jax.configs.studies import common

BETAS = (0.1, 0.5, 1.0, 5.0)
PAPER = {  # alpha: mIoU for each beta
    0.01: (46.4, 52.7, 53.8, 53.6),
    0.1: (47.6, 52.9, 53.7, 53.5),
    0.5: (50.4, 53.1, 53.3, 53.5),
    1.0: (51.1, 52.7, 53.1, 53.6),
}


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "table9")
    return common.grid(
        c, "table9", "Weights of the symmetric cross entropy", ("ce_weight", "rce_weight"), ("alpha", "beta"), BETAS,
        PAPER, paper="Table 9",
    )  # fmt: skip
