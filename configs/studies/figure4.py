"""Figure 4: schemes of online label updating: what is weighted, by what, and whether labels are hard.

    python main.py --mode=study --config=configs/studies/figure4.py:demo --workdir=...

The curves of the figure have no readable values. Its text says: with labels that move (p_t) the score climbs and then
drops, with fixed ones (p_{t,0}) it climbs steadily and passes self-training; prototypes as weights are more than 5.0
better than the network's own prediction; hard labels are slightly (about 0.2) better than soft ones.
"""

import ml_collections

from proda_jax.configs.studies import common

# how a row is called: label_source, weighting, hard_labels of stage 1
SCHEMES = {
    "p_t, soft": ("moving", "none", False),
    "p_t, hard": ("moving", "none", True),
    "p_t weighted by prototypes, soft": ("moving", "prototypes", False),
    "p_t weighted by prototypes, hard": ("moving", "prototypes", True),
    "p_t,0 weighted by p_t, soft": ("fixed", "network", False),
    "p_t,0 weighted by p_t, hard": ("fixed", "network", True),
    "p_t,0 weighted by prototypes, soft": ("fixed", "prototypes", False),
    "p_t,0 weighted by prototypes, hard": ("fixed", "prototypes", True),
}


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    c = common.recipe(form, "figure4")
    c.denoising = common.denoising(c)
    rows = [("conventional self-training", "self_training", None)]
    for title, (source, weighting, hard) in SCHEMES.items():
        kind = "hard" if hard else "soft"
        stage = f"{source}_{weighting}_{kind}"
        if (source, weighting, hard) == ("fixed", "prototypes", True):
            stage = "denoising"
        else:
            c[stage] = common.variant(c.denoising, label_source=source, weighting=weighting, hard_labels=hard)
        rows.append((title, stage, None))
    return common.study(
        c, "figure4", "Schemes of online label updating", rows, paper="Figure 4", gain_over="self_training",
        show=("curves", "label_quality"),
        notes=(
            "Denoising alone, without structure learning, so that nothing but labels keeps a network from collapse.",
            "The figure has no readable values, so there are none beside ours. Its text: moving labels climb, then "
            "drop; fixed ones climb steadily and pass self-training; weights by prototypes are more than 5.0 better "
            "than by the network; hard labels are about 0.2 better than soft ones.",
        ),
    )  # fmt: skip
