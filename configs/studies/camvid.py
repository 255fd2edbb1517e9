"""Real photographs: CamVid by day -> at dusk, the reverse, and where students should start.

    python main.py --mode=study --config=configs/studies/camvid.py --config.data.raw_dir=<CamVid folder> --workdir=...
    python main.py --mode=study --config=configs/studies/camvid.py:reverse ... (in another workdir)
    python main.py --mode=study --config=configs/studies/camvid.py:scratch ..., :scratch_reverse, :starts

The first two start from ImageNet weights (configs/camvid.py), with the control: as many more steps on the source alone
as all stages after it take together. Statistics of normalisation are recomputed from the target's images after the
source, the control and the oracle, and running ones of target crops in all other rows; scores with the other ones are
beside them. `scratch` and `scratch_reverse` are of a small network that knows nothing yet.
The reverse learns from the 62 labelled photographs at dusk, adapts to one sequence by day and is scored on another, as
target and validation images should not be of one street. `starts` asks from which weights, made here of these
photographs, stage 2 should start, by day -> at dusk. The paper has no such tasks.
"""

import ml_collections

from proda_jax.configs import base, camvid, small
from proda_jax.configs.studies import common

SCRATCH_STEPS = {  # three quarters of configs/camvid.py:scratch's
    "source": 750, "source_jitter": 750, "warmup": 225, "self_training": 300,
    "stage1": 300, "stage2": 300, "stage3": 300,
    "oracle": 900,  # as many as stages 1 to 3 together
}  # fmt: skip
START_STEPS = 800  # of students, most of which have a new head to learn
TITLES = {
    "dusk": "CamVid, day to dusk",
    "reverse": "CamVid, dusk to day",
    "scratch": "CamVid, day to dusk, from scratch",
    "scratch_reverse": "CamVid, dusk to day, from scratch",
    "starts": "CamVid, day to dusk: where students start",
}
LATER_ROWS = (
    ("warm-up", "warmup", None),
    ("self-training", "self_training", None),
    ("stage 1", "stage1", None),
    ("stage 2", "stage2", None),
    ("stage 3", "stage3", None),
    ("oracle", "oracle", None),
)
ROWS = (("source only", "source", None), ("source only, continued", "control", None), *LATER_ROWS)
SCRATCH_ROWS = (
    ("source only", "source", None), ("source only, colour augmentation", "source_jitter", None), *LATER_ROWS,
)  # fmt: skip
START_ROWS = (
    ("stage 1", "stage1", None),
    ("stage 2 from stage 1", "stage2_previous", None),
    ("stage 2 from supervised weights", "stage2_supervised", None),
    ("stage 2 from self-supervised weights", "stage2_self_supervised", None),
)


def get_config(form: str = "dusk") -> ml_collections.ConfigDict:
    """The study of a form, one of `TITLES`."""
    if form not in TITLES:
        others = ", ".join(f"configs/studies/camvid.py:{other}" for other in TITLES)
        raise ValueError(f"configs/studies/camvid.py:{form}: expected configs/studies/camvid.py, or one of {others}")
    pretrained = form in ("dusk", "reverse")
    c = camvid.get_config("pretrained" if pretrained else "scratch")
    c.task = f"camvid_{form}_studies"
    c.data.loader = "memory"
    if form.endswith("reverse"):
        reverse(c)
    c.self_training.random_as = "stage1"
    if pretrained:
        return common.study(c, "camvid", TITLES[form], ROWS, paper="", gain_over="control")
    for name, steps in SCRATCH_STEPS.items():
        c[name].steps = c[name].schedule_steps = steps
    if form == "starts":
        return starts(c)
    return common.study(c, "camvid", TITLES[form], SCRATCH_ROWS, paper="", gain_over="source")


def reverse(c: ml_collections.ConfigDict) -> None:
    """Dusk to day, in place."""
    size = c.data.target.image_size
    c.data.source = base.dataset("camvid", "dusk_train", size)
    c.data.target = base.dataset("camvid", "day_train_0016E5", size)
    c.data.validation = base.dataset("camvid", "day_train_0006R0", size)


def starts(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Where students start, with weights made of these photographs."""
    c.pretrained = small.pretrain("random", 300)
    longer = {"steps": START_STEPS, "schedule_steps": START_STEPS}
    weights = common.STARTS["demo"]
    supervised = weights["supervised weights"] | {"init": "source_jitter"}
    c.stage2_previous = common.variant(c.stage2, "stage2", **longer)
    c.stage2_supervised = common.variant(c.stage2, "stage2", **supervised, **longer)
    c.stage2_self_supervised = common.variant(c.stage2, "stage2", **weights["self-supervised weights"], **longer)
    return common.study(c, "camvid_starts", TITLES["starts"], START_ROWS, paper="", gain_over="stage1")
