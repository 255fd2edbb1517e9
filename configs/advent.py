"""ADVENT (Vu et al., CVPR 2019): predictions on the target are to be sure, GTA5 or SYNTHIA -> Cityscapes.

    python main.py --config=configs/advent.py:gta5 --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>
    python main.py --mode=evaluate --config=configs/advent.py:gta5 --workdir=... --stage=minent+advent

Two networks: MinEnt minimises the entropy of each pixel, AdvEnt aligns the maps of it. Published: GTA5 45.5 mIoU,
SYNTHIA 41.2 over 16 classes and 48.0 over 13 (ProDA's Tables 1 and 2), of both together, whose class scores are
averaged in the test alone: the second command. This configuration has not been run in full.
"""

import ml_collections

from proda_jax.configs import base, deeplabv2

STEPS = {"gta5": 120_000, "synthia": 90_000}  # of schedules of 250,000 and 90,000


def get_config(source: str = "gta5") -> ml_collections.ConfigDict:
    c = deeplabv2.begin(source)
    c.task = f"advent_{source}"
    c.stages = ("minent", "advent")

    horizon = 250_000 if source == "gta5" else STEPS[source]
    c.minent = deeplabv2.trained(minent("imagenet", STEPS[source]), horizon=horizon)
    c.advent = deeplabv2.trained(advent("imagenet", STEPS[source]), horizon=horizon)
    deeplabv2.two_levels(c, c.minent, c.advent)
    c.minent.auxiliary_entropy_weight = c.advent.auxiliary_adversarial_weight = 0.0002
    return c


def minent(init: str, steps: int) -> ml_collections.ConfigDict:
    """The entropy of predictions on the target is minimised."""
    s = base.warmup(init, steps)
    s.adversarial_weight = 0.0
    s.entropy_weight = 0.001
    return s


def advent(init: str, steps: int) -> ml_collections.ConfigDict:
    """Discriminators see -p log p of each class."""
    s = deeplabv2.adversarial(init, steps)
    s.adversarial_on = "information"
    return s
