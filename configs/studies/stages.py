"""Table 1's rows of ProDA: GTA5 -> Cityscapes, stage by stage and class by class.

    python main.py --mode=study --config=configs/studies/stages.py --workdir=... <data and weights as for gta5.py>

The table has the source alone and ProDA's last stage; what lies between is settled by Section 5.3 (see table3.py), and
its other systems are in table1.py. IoU by class stands beside ours where the paper gives it: source, warm-up (Table
11), and the last stage.
"""

import ml_collections

from proda_jax.configs.studies import common

ROWS = (
    ("source only", "source", 36.6),
    ("warm-up", "warmup", 41.6),
    ("stage 1", "stage1", 53.7),
    ("stage 2", "stage2", 56.9),
    ("stage 3", "stage3", 57.5),
)


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "stages")
    return common.study(
        c, "stages", "GTA5 to Cityscapes, stage by stage", ROWS, paper="Table 1", gain_over="source", show=("classes",)
    )
