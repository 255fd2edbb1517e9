"""The demo from scratch with a longer schedule and every yardstick (docs/results.md).

Rows: source only, source with colour augmentation, warm-up, conventional self-training, the three stages, oracle.
Self-training and stage 1 start from the same warm-up, with the same rate, schedule and number of steps.
"""

import ml_collections

from proda_jax.configs import base, demo, small


def get_config() -> ml_collections.ConfigDict:
    c = demo.get_config("scratch")
    c.task = "demo_study"
    c.stages = ("source", "source_jitter", "warmup", "self_training", "stage1", "stage2", "stage3", "oracle")
    c.evaluate_every = 1000
    c.source = small.tuned(base.supervised("random", 5000))
    c.source_jitter = small.jitter(small.tuned(base.supervised("random", 5000)))
    c.warmup = small.warmup("source_jitter", 500)
    c.self_training = small.self_training("warmup", 1200)
    c.stage1 = small.denoise("warmup", 1200)
    c.stage2 = small.distill("stage1", 1400)
    c.stage3 = small.distill("stage2", 1400)
    # the oracle starts where stages 1 to 3 start and takes as many steps as they do together, with the target's labels
    c.oracle = small.jitter(small.tuned(base.supervised("warmup", 4000, target_labels=True)))
    return c
