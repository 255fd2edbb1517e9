"""Real photographs: CamVid by day -> at dusk, and the reverse.

    python main.py --mode=study --config=configs/studies/camvid.py --config.data.raw_dir=<CamVid folder> --workdir=...
    python main.py --mode=study --config=configs/studies/camvid.py:reverse ... (in another workdir)

The reverse learns from the 62 labelled photographs at dusk, adapts to one sequence by day and is scored on another, as
target and validation images should not be of one street. The paper has no such task. Weights are made here: supervised
ones of the source, self-supervised ones of source and target. A seed takes some two hours on one core.
"""

import ml_collections

from configs import base, camvid, demo
from configs.studies import common

STUDENT_STEPS = 800  # of stages 2 and 3, twice those of stage 1: some have a new head
ROWS = (
    ("source only", "source", None),
    ("source only, colour augmentation", "source_jitter", None),
    ("warm-up", "warmup", None),
    ("self-training", "self_training", None),
    ("stage 1", "stage1", None),
    ("stage 2 from stage 1", "stage2", None),
    ("stage 3 from stage 2", "stage3", None),
    ("oracle", "oracle", None),
    ("stage 2 from supervised weights", "stage2_supervised", None),
    ("stage 2 from self-supervised weights", "stage2_self_supervised", None),
)


def get_config(direction: str = "dusk") -> ml_collections.ConfigDict:
    if direction not in ("dusk", "reverse"):
        raise ValueError(f"configs/studies/camvid.py:{direction}: expected configs/studies/camvid.py for day to dusk, "
                         "or configs/studies/camvid.py:reverse")  # fmt: skip
    c = camvid.get_config()
    c.task = "camvid_studies"
    c.data.loader = "memory"
    if direction == "reverse":
        c.task = "camvid_reverse_studies"
        size = c.data.target.image_size
        c.data.source = base.dataset("camvid", "dusk_train", size)
        c.data.target = base.dataset("camvid", "day_train_0016E5", size)
        c.data.validation = base.dataset("camvid", "day_train_0006R0", size)
    c.pretrained = demo.pretrain("random", 300)
    for stage in (c.stage2, c.stage3):
        stage.steps = stage.schedule_steps = STUDENT_STEPS
    c.oracle.steps = c.oracle.schedule_steps = c.stage1.steps + 2 * STUDENT_STEPS  # as many as stages 1 to 3 together
    c.self_training.random_as = "stage1"
    starts = common.STARTS["demo"]
    supervised = starts["supervised weights"] | {"init": "source_jitter"}
    c.stage2_supervised = common.variant(c.stage2, "stage2", **supervised)
    c.stage2_self_supervised = common.variant(c.stage2, "stage2", **starts["self-supervised weights"])
    title = "CamVid, " + ("day to dusk" if direction == "dusk" else "dusk to day")
    return common.study(c, "camvid", title, ROWS, paper="", gain_over="source")
