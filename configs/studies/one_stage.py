"""Self-training in one stage on mixed images, what can be added to it, and ProDA's stages, after one start.

    python main.py --mode=study --config=configs/studies/one_stage.py:demo --workdir=...
    python main.py --mode=study --config=configs/studies/one_stage.py:camvid --workdir=... \
        --config.data.raw_dir=<CamVid>
    python main.py --mode=study --config=configs/studies/one_stage.py:reverse ... (dusk to day, in another workdir)

All from EfficientNet-Lite0 with ImageNet weights. `mix` takes as many steps, and so sees as many images, as stages 1
to 3 together; the control takes the warm-up's besides. Rows of `mix` differ in what their name says alone, with the
same random draws. No row was tuned: weights of what is added are those of their authors (DAFormer, MIC), but blocks of
the mask are 32 pixels, as crops are smaller than theirs. The paper has no such table.
"""

import ml_collections

from proda_jax.configs import base, camvid, demo, lite
from proda_jax.configs.studies import camvid as camvid_study
from proda_jax.configs.studies import common

FORMS = ("demo", "camvid", "reverse")
THINGS = {  # classes whose features are to stay near the frozen network's, as DAFormer has it
    "demo": ("traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "motorcycle", "bicycle"),
    "camvid": ("traffic sign", "car", "pedestrian", "bicyclist"),
}
PROTOTYPES = {  # of the recipe's stage 1, in one stage
    "weighting": "prototypes", "temperature": 2.0, "prototype_momentum": 0.99, "prototype_init_min_pixels": 2,
}  # fmt: skip
MASKS = {"masked_weight": 1.0, "mask_block": 32}
_USUAL = base.usual("mix")
ALL_CLASSES = {
    name: _USUAL[name] for name in ("rare_class_sampling", "rare_class_min_pixels", "rare_class_crop_pixels")
}
VARIANTS = (
    ("mix, all classes alike", "mix_all_classes", ALL_CLASSES),
    ("mix, masks", "mix_masks", MASKS),
    ("mix, feature distance", "mix_distance", {"feature_distance_weight": 0.005}),
    ("mix with prototypes", "mix_prototypes", PROTOTYPES),
    ("mix with prototypes, masks", "mix_prototypes_masks", PROTOTYPES | MASKS),
)


def get_config(form: str = "camvid") -> ml_collections.ConfigDict:
    """The study of a form, one of `FORMS`."""
    if form not in FORMS:
        others = ", ".join(f"configs/studies/one_stage.py:{other}" for other in FORMS)
        raise ValueError(f"configs/studies/one_stage.py:{form}: expected one of {others}")
    c = demo.get_config() if form == "demo" else camvid.get_config()
    c.data.loader = "memory"
    c.task = f"one_stage_{form}"
    if form == "reverse":
        camvid_study.reverse(c)
    if form == "demo":
        c.control = lite.supervised("source", c.warmup.steps + c.mix.steps)
        c.oracle = lite.supervised("warmup", c.mix.steps, target_labels=True)
        for name in ("control", "oracle"):
            lite.draw_rare_classes(c[name], c.data.source.image_size, c.views.crop_size)
    c.self_training.random_as = "stage1"
    rows = [("source only", "source"), ("source only, continued", "control"), ("mix", "mix")]
    for label, name, settings in VARIANTS:
        c[name] = common.variant(c.mix, "mix", **settings)
        rows.append((label, name))
    c.mix_distance.feature_distance_classes = THINGS["demo" if form == "demo" else "camvid"]
    for name, teacher in (("stage2", "mix"), ("stage3", "mix_stage2")):
        c[f"mix_{name}"] = common.variant(c[name], name, teacher=teacher, init=teacher)
    rows += [
        ("stage 2 after mix", "mix_stage2"), ("stage 3 after mix", "mix_stage3"), ("self-training", "self_training"),
        ("stage 1", "stage1"), ("stage 2", "stage2"), ("stage 3", "stage3"), ("oracle", "oracle"),
    ]  # fmt: skip
    rows = [(label, stage, None) for label, stage in rows]
    return common.study(c, "one_stage", f"One stage, {form}", rows, paper="", gain_over="control",
                        show=("classes", "costs", "predictions"))  # fmt: skip
