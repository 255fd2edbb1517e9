"""Tables 3 and 11: what each component adds, and where stages 2 and 3 start.

    python main.py --mode=study --config=configs/studies/table3.py:demo --workdir=...

Table 3 cannot be read from its extracted text, and Table 11 lacks rows. The running text of Section 5.3 settles these
numbers: source 36.6, warm-up "a 5.0 mIoU increase", self-training 45.2, the symmetric loss "+0.4", denoising 52.3,
structure learning without it "from 45.6 to 47.6", both 53.7 (Tables 4 to 10), stage 2 from stage 1's network 0.6 below
that from self-supervised weights, without distillation 1.1 below it, and stage 3 0.6 above it, at 57.5. Of supervised
weights it says that they do worse, without a number.
"""

import ml_collections

from configs.studies import common


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "table3")
    c.self_training_sce = common.variant(c.self_training, "self_training", ce_weight=0.1, rce_weight=1.0)
    c.denoising = common.denoising(c)
    c.structure = common.variant(c.stage1, "stage1", weighting="none")
    rows = [
        ("source only", "source", 36.6),
        ("warm-up", "warmup", 41.6),
        ("self-training", "self_training", 45.2),
        ("self-training, symmetric loss", "self_training_sce", 45.6),
        ("denoising", "denoising", 52.3),
        ("structure learning", "structure", 47.6),
        ("stage 1: denoising and structure learning", "stage1", 53.7),
    ]
    return common.study(
        c, "table3", "What each component adds", rows, paper="Tables 3 and 11", gain_over="source"
    )
