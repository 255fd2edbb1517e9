"""Table 8: the temperature of prototypical denoising (tau of Equation 4), after stage 1.

    python main.py --mode=study --config=configs/studies/table8.py:demo --workdir=...
    python main.py --mode=study --config=configs/studies/table8.py:camvid --config.data.raw_dir=<CamVid> --workdir=...
"""

import ml_collections

from proda_jax.configs.studies import common

PAPER = {0.1: 48.8, 0.5: 52.1, 1.0: 53.7, 2.0: 51.9, 3.0: 47.5, 5.0: 44.9, 10.0: 40.9}


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "table8")
    return common.over(c, "table8", "Temperature of prototypical denoising", "temperature", PAPER, paper="Table 8",
                       notes=("The temperature is that of Equations 4 and 8 alike.",))  # fmt: skip
