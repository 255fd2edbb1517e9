"""Rendered streets, every stage, in minutes of two CPU cores: `main.py --config=configs/demo.py`.

EfficientNet-Lite0 from ImageNet weights, which the requirements bring. `--config=configs/demo.py:scratch` is a network
that is smaller still and knows nothing yet. `:source_free` learns from target images alone:

    python main.py --config=configs/demo.py:source_free --workdir=... \
        --config.stage2.teacher=<workdir of the demo>/source --config.stage2.init=<the same>
"""

import ml_collections

from proda_jax.configs import base, lite, small

FORMS = ("pretrained", "scratch", "source_free")


def get_config(form: str = "pretrained") -> ml_collections.ConfigDict:
    """The configuration of one of `FORMS`, what follows the colon after the file's name."""
    if form not in FORMS:
        others = ", ".join(f"configs/demo.py:{other}" for other in FORMS)
        raise ValueError(f"configs/demo.py:{form}: expected configs/demo.py, or one of {others}")
    c = streets()
    if form == "scratch":
        return from_scratch(c)
    c = pretrained(c)
    if form == "source_free":
        lite.without_source(c)
    return c


def streets() -> ml_collections.ConfigDict:
    """Data, views and a network from scratch; without stages."""
    c = base.get_config()
    c.task = "demo"
    c.batch_size = 4
    c.log_every = 10
    c.evaluate_every = 75
    c.evaluate_batch_size = 10

    size = (96, 192)
    c.data.source = base.dataset("demo", "source_train", size)
    c.data.target = base.dataset("demo", "target_train", size)
    c.data.validation = base.dataset("demo", "target_val", size)
    c.data.allow = ("absent_classes",)  # no train runs through these streets

    small.network(c)
    c.views.crop_size = (64, 128)
    c.views.scale = (0.75, 1.25)
    c.views.target_stride = 2  # an image is 192 pixels wide, not 2,048: every fourth pixel would be too coarse
    return c


def pretrained(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """From ImageNet weights, with source images drawn by rare classes."""
    lite.network(c)
    c.evaluate_every = 400  # at the end of each stage; on the way takes as long as 25 steps
    c.stages = ("source", "warmup", "stage1", "stage2", "stage3")
    c.source = lite.supervised("imagenet", 400)
    c.warmup = lite.warmup("source", 100)
    c.stage1 = lite.denoise("warmup", 150)
    c.stage2 = lite.distill("stage1", 150)
    c.stage3 = lite.distill("stage2", 300)
    together = c.stage1.steps + c.stage2.steps + c.stage3.steps
    c.self_training = lite.self_training("warmup", together)  # no prototypes; not among `stages`, as the next
    c.mix = lite.mix("source", together)  # in one stage
    c.stage2.target_view = c.stage3.target_view = "weak"  # a student that starts as its teacher loses on strong views
    for stage in (c.self_training, c.stage1, c.stage2, c.stage3):
        stage.label_scales = (1.0,)  # predictions of three sizes take as long as 50 steps
    for stage in (c.warmup, c.self_training, c.stage1, c.stage2, c.stage3):
        stage.statistics = "averaged"  # over 400 crops: running ones of four are noisy (results.md)
    for name in (*c.stages, "self_training", "mix"):
        lite.draw_rare_classes(c[name], c.data.source.image_size, c.views.crop_size)
    return c


def from_scratch(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The small network; no weights, no download."""
    c.stages = ("source", "warmup", "stage1", "stage2", "stage3")
    c.source = small.tuned(base.supervised("random", 600))
    c.warmup = small.warmup("source", 150)
    c.stage1 = small.denoise("warmup", 150)
    c.stage2 = small.distill("stage1", 150)
    c.stage3 = small.distill("stage2", 150)
    for stage in (c.stage1, c.stage2, c.stage3):
        stage.label_scales = (1.0,)
    return c
