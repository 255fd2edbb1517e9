"""CLAN (Luo et al., CVPR 2019): where two classifiers disagree, alignment counts; GTA5 or SYNTHIA -> Cityscapes.

    python main.py --config=configs/clan.py:gta5 --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

Published: GTA5 43.2 mIoU, SYNTHIA 47.8 over 13 classes (ProDA's Tables 1 and 2). This configuration has not been run in
full. `--config.clan.focus=0` is the paper's plain cross entropy in place of the code's focal loss. Larger batches equal
the mean over single images, as the code has them, with `--config.clan.reduction=image`.
"""

import ml_collections

from proda_jax.configs import deeplabv2

STEPS = 100_000
LOCAL_WEIGHT = {"gta5": 40.0, "synthia": 10.0}


def get_config(source: str = "gta5") -> ml_collections.ConfigDict:
    c = deeplabv2.begin(source)
    c.task = f"clan_{source}"
    c.stages = ("clan",)
    c.views.flip = True
    c.views.scale = (1.0, 1.5)  # they scale at random, downwards too

    c.model.auxiliary_head = "parallel"
    c.model.auxiliary_weight = 1.0  # the network says, and the discriminator sees, the sum of both heads
    c.clan = deeplabv2.trained(clan("imagenet", STEPS, LOCAL_WEIGHT[source]), horizon=STEPS)
    return c


def clan(init: str, steps: int, local_weight: float = LOCAL_WEIGHT["gta5"]) -> ml_collections.ConfigDict:
    """Two parallel heads that are to differ, and a discriminator whose scores count where they do."""
    s = deeplabv2.adversarial(init, steps)
    s.focus = 2.0
    s.auxiliary_ce_weight = 1.0
    s.discriminator_weight = 1.0
    s.scores_at = "image"
    s.local_weight = local_weight
    s.local_after = s.schedule_warmup = steps // 20
    s.schedule_warmup_start = 0.0
    s.schedule_warmup_to = "rate"
    s.damping_steps = steps
    s.weight_divergence = 0.02
    return s
