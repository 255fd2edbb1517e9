"""Table 10: gamma_1 of the consistency and gamma_2 of the regulariser (Equation 11), after stage 1."""

import ml_collections

from proda_jax.configs.studies import common

GAMMAS_2 = (0.02, 0.1, 0.2)
PAPER = {  # gamma_1: mIoU for each gamma_2
    2.0: (52.9, 53.7, 53.5),
    10.0: (53.2, 53.7, 53.4),
    20.0: (53.4, 53.6, 52.1),
    50.0: (53.6, 52.0, 52.1),
}


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "table10")
    return common.grid(
        c, "table10", "Weights of consistency and regulariser", ("consistency_weight", "regulariser_weight"),
        ("gamma_1", "gamma_2"), GAMMAS_2, PAPER, paper="Table 10",
    )  # fmt: skip
