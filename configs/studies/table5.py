"""Table 5: the momentum of prototypes (lambda of Equation 6), after stage 1."""

import ml_collections

from proda_jax.configs.studies import common

PAPER = {0.99: 53.5, 0.999: 53.6, 0.9999: 53.7, 0.99999: 52.3}


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "table5")
    values, notes = PAPER, ()
    if form != "gta5":
        values = {abs(round(1 - 100 * (1 - momentum), 5)): score for momentum, score in PAPER.items()}
        notes = ("1 - momentum is a hundred times the paper's, as steps are some hundred times fewer: 0.99 stands "
                 "beside its 0.9999.",)  # fmt: skip
    return common.over(
        c, "table5", "Momentum of prototypes", "prototype_momentum", values, paper="Table 5", notes=notes
    )
