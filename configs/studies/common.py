"""What the studies share: the recipe of their two forms, variants of a stage, and the section that says what is shown.

A study is one experiment for each seed, whose stages are those of all rows: rows have the stages in common that they
name. So `configs/studies/table8.py` holds source, warm-up and one stage 1 for each temperature.

`--config=configs/studies/table8.py` is the paper's task, GTA5 -> Cityscapes, at full size;
`--config=configs/studies/table8.py:demo` asks the same on rendered streets, from scratch, and
`:camvid --config.data.raw_dir=<CamVid folder>` on real photographs, from ImageNet weights, both for two CPU cores.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from proda_jax.configs import base, camvid, demo, gta5, lite, small

SEEDS = (0, 1, 2)
DEMO_STEPS = 300  # of stage 1, which starts again at the first rate: after 150, rows are below where they began
DEMO_STUDENT_STEPS = 1200  # of stages 2 and 3: most students have a new head, and were still learning after 300
CAMVID_STUDENT_STEPS = 250  # likewise, at the rates of the source's stage
# what it is called; the stage that it scores, or several, 'minent+advent', on average; the paper's mIoU, or what its
# Tables 1 and 2 call the system; the variant that it is of, where there are some
Row = tuple[str, str, float | str | None] | tuple[str, str, float | str | None, str]
EQUAL_TERMS = (
    "Rows of the same stage differ in what their name says and in nothing else: the same start, steps, rates, labels "
    "and random draws. No row was tuned for this study."
)
DEMO_TERMS = (
    "The recipe that all rows start from is that of configs/demo.py, settled before (docs/results.md, 'What moved the "
    "score'); its temperature of 2 was chosen by distances of features, its cross entropy in place of the symmetric "
    "one by scores. The paper's numbers are of another task: what can be compared is which rows are ahead, not scores."
)
CAMVID_TERMS = (
    "CamVid, day to dusk, EfficientNet-Lite0 from ImageNet weights: the recipe that all rows start from is that of "
    "configs/camvid.py, settled before, but for students, which take more steps at the source's rates. Statistics of "
    "normalisation are running ones of target images from the warm-up on. The paper's numbers are of another task."
)

# where students of stages 2 and 3 start, by form: settings besides their teacher
STARTS = {
    "gta5": {
        "self-supervised weights": {"init": "self_supervised", "extra_norm": True},
        "supervised weights": {"init": "imagenet", "extra_norm": False},
    },
    "demo": {  # nothing is downloaded: weights are made of the demo's own images
        "self-supervised weights": {"init": "pretrained", "extra_norm": True},
        "supervised weights": {"init": "source", "init_takes": "backbone", "extra_norm": False},
    },
    "camvid": {  # SimCLR goes on from ImageNet weights, on these photographs
        "self-supervised weights": {"init": "pretrained", "extra_norm": True},
        "supervised weights": {"init": "imagenet", "extra_norm": False},
    },
}


def recipe(form: str, file: str, task: Any = gta5) -> ml_collections.ConfigDict:
    """The stages that studies are made of, in one of the forms; `study` chooses those that its rows need.

    Args:
      form: 'gta5' (the paper's task at full size), 'demo' or 'camvid'.
      file: name of the study's file, for the message.
      task: configuration of the paper's task.
    """
    photographs = f", or {file}.py:camvid for photographs" if task is gta5 else ""
    if form not in STARTS or form == "camvid" and not photographs:
        raise ValueError(f"configs/studies/{file}.py:{form}: expected configs/studies/{file}.py for the paper's task, "
                         f"{file}.py:demo for rendered streets{photographs}")  # fmt: skip
    c = {"gta5": lambda: _full(task), "demo": _demo, "camvid": _camvid}[form]()
    c.self_training.random_as = "stage1"  # rows that are compared draw the same
    for name, teacher in (("stage2", "stage1"), ("stage3", "stage2")):
        for start, settings in STARTS[form].items():
            c[name if start.startswith("self") else f"{name}_supervised"] = variant(c[name], name, **settings)
        own = {"init": teacher, "extra_norm": teacher == "stage2"}
        c[f"{name}_previous"] = variant(c[name], name, **own, init_takes=None)
    return c


def _full(task: Any) -> ml_collections.ConfigDict:
    """The paper's task, at full size."""
    c = task.get_config()
    c.task = f"{c.task}_studies"
    c.source = base.supervised("imagenet", gta5.STEPS)
    c.self_training = base.self_training("warmup", gta5.STEPS)
    return c


def _demo() -> ml_collections.ConfigDict:
    """Rendered streets: a stage takes a few minutes on two cores."""
    c = demo.get_config("scratch")
    c.task = "demo_studies"
    c.evaluate_every = 75
    c.data.loader = "memory"  # all 1,360 images are small
    c.source = small.tuned(base.supervised("random", 600))
    c.pretrained = small.pretrain("random", 300)
    c.warmup = small.warmup("source", 150)
    c.self_training = small.self_training("warmup", DEMO_STEPS)
    c.stage1 = small.denoise("warmup", DEMO_STEPS)
    c.stage2 = small.distill("stage1", DEMO_STUDENT_STEPS)
    c.stage3 = small.distill("stage2", DEMO_STUDENT_STEPS)
    return c


def _camvid() -> ml_collections.ConfigDict:
    """Real photographs, day to dusk, from ImageNet weights: a stage takes five to ten minutes of one CPU core."""
    c = camvid.get_config()
    c.task = "camvid_studies"
    c.data.loader = "memory"
    c.pretrained = lite.pretrain("imagenet", 150)
    for name in ("stage2", "stage3"):
        c[name].steps = CAMVID_STUDENT_STEPS
        lite.tuned(c[name], 1.0, "target")
    return c


def variant(stage: ml_collections.ConfigDict, of: str | None = None, **settings: Any) -> ml_collections.ConfigDict:
    """The same stage with other settings.

    Args:
      stage: that it is a variant of.
      of: its name; draws at random are then the same in both, so that they differ in the settings alone.
      settings: by name; `views` is a dictionary of settings of that section.
    """
    s = stage.copy_and_resolve_references()
    with s.unlocked():
        s.views = ml_collections.ConfigDict(settings.pop("views", dict(stage.views)))
    for name, value in settings.items():
        s[name] = value
    s.random_as = stage.random_as or of
    return s.lock()


def study(
    c: ml_collections.ConfigDict, name: str, title: str, rows: Iterable[Row], *, paper: str, gain_over: str,
    notes: Iterable[str] = (), show: Iterable[str] = (), grid: Iterable[tuple[str, str, str]] = (),
    picture_rows: Iterable[str] = (), variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> ml_collections.ConfigDict:  # fmt: skip
    """Makes a configuration a study.

    Args:
      c: with a section for each stage that rows need.
      name: of its results' folder.
      title: of its table.
      rows: in the order in which they are shown.
      paper: the paper's table or figure.
      gain_over: stage of the row that gains are over.
      notes: what a reader has to know to judge it.
      show: what its page shows besides: 'classes', 'costs', 'curves', 'label_quality', 'predictions' of rows beside
        each other, 'pictures' of pseudo labels, 'features'.
      grid: where rows are pairs of values of two settings: (stage, first value, second value) in words.
      picture_rows: stages of the rows whose predictions are shown; by default the source, what gains are over, the
        three best and the last.
      variants: where rows need other networks: by name, the settings that are others in all of its stages.
    """
    s = ml_collections.ConfigDict()
    s.name, s.title, s.paper = name, title, paper
    s.rows = tuple(map(tuple, rows))
    s.gain_over = gain_over
    s.seeds = SEEDS  # one experiment each
    terms = {"demo": (DEMO_TERMS,), "camvid_studies": (CAMVID_TERMS,)}
    of_task = next((found for task, found in terms.items() if c.task.startswith(task)), ())
    s.notes, s.show, s.grid = (EQUAL_TERMS, *of_task, *notes), tuple(show), tuple(map(tuple, grid))
    s.picture_rows = tuple(picture_rows)
    s.variants = tuple((variant, tuple(changed.items())) for variant, changed in (variants or {}).items())
    c.study = s.lock()
    c.stages = needed(c, [name for _, stage, _, *variant in s.rows if not any(variant) for name in stage.split("+")])
    return c


def needed(c: ml_collections.ConfigDict, wanted: Iterable[str]) -> tuple[str, ...]:
    """The wanted stages with those that they start from and learn from, each after those that it needs."""
    found: dict[str, None] = {}

    def add(name: str) -> None:
        for key in ("init", "labels_from", "teacher", "source_images"):
            if (before := c[name].get(key)) in c:
                add(before)
        found.setdefault(name)

    for name in wanted:
        add(name)
    return tuple(found)


def over(
    c: ml_collections.ConfigDict, name: str, title: str, setting: str, values: dict[Any, float | None], **facts: Any
) -> ml_collections.ConfigDict:
    """A study of one setting of stage 1, a row for each value; the recipe's own value is stage 1 itself.

    Args:
      c: the recipe.
      name, title: see `study`.
      setting: of stage 1.
      values: {value: the paper's mIoU}.
      facts: what else `study` takes.
    """
    rows = []
    for value, theirs in values.items():
        stage = "stage1" if value == c.stage1[setting] else f"{setting}_{value}".replace(".", "_")
        if stage != "stage1":
            c[stage] = variant(c.stage1, "stage1", **{setting: value})
        rows.append((f"{setting} {value}", stage, theirs))
    return _with_recipe(c, name, title, rows, f"{setting} {c.stage1[setting]}", **facts)


def grid(
    c: ml_collections.ConfigDict, name: str, title: str, settings: tuple[str, str], titles: tuple[str, str],
    columns: Iterable[float], values: dict[float, Iterable[float]], **facts: Any,
) -> ml_collections.ConfigDict:  # fmt: skip
    """A study of two settings of stage 1, a row for each pair of values.

    Args:
      c: the recipe.
      name, title: see `study`.
      settings: of stage 1.
      titles: what they are called in the paper.
      columns: values of the second setting.
      values: {value of the first: the paper's mIoU for each of `columns`}.
      facts: what else `study` takes.
    """
    own = tuple(c.stage1[setting] for setting in settings)
    rows, pairs = [], []
    for first, scores in values.items():
        for second, theirs in zip(columns, scores, strict=True):
            pair, stage = dict(zip(settings, (first, second), strict=True)), "stage1"
            if own != (first, second):
                stage = f"{titles[0]}_{first}_{titles[1]}_{second}".replace(".", "_")
                c[stage] = variant(c.stage1, "stage1", **pair)
            pairs.append((stage, f"{titles[0]} {first:g}", f"{titles[1]} {second:g}"))
            rows.append((", ".join(pairs[-1][1:]), stage, theirs))
    return _with_recipe(c, name, title, rows, f"{titles[0]} {own[0]:g}, {titles[1]} {own[1]:g}", grid=pairs, **facts)


def _with_recipe(
    c: ml_collections.ConfigDict, name: str, title: str, rows: list[Row], own: str, **facts: Any
) -> ml_collections.ConfigDict:
    """A study whose gains are over the recipe's stage 1, which has a row of its own if it is not among the paper's."""
    if all(stage != "stage1" for _, stage, _ in rows):
        rows = [*rows, (f"{own} (the recipe)", "stage1", None)]
    return study(c, name, title, rows, gain_over="stage1", **facts)


def denoising(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Stage 1 without structure learning: neither consistency nor what keeps it from collapse (Section 4.2)."""
    return variant(c.stage1, "stage1", consistency_weight=0.0, regulariser_weight=0.0)
