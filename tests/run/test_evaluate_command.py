"""`--mode=evaluate`: any checkpoint on any labelled images, as a table, as CSV and as LaTeX."""

import contextlib
import csv
import io
import json

import fixtures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import run_main
from tiny import block_source, tiny_config, tiny_model, tiny_stage, tiny_variables

from proda_jax.adaptation.state import TrainState
from proda_jax.configs import base, camvid, demo, gta5
from proda_jax.data.label_spaces import label_space, reported_subsets
from proda_jax.data_prep import prepare
from proda_jax.report import score_tables as tables
from proda_jax.run import evaluate, experiment, provenance
from proda_jax.run.sources import Sources
from proda_jax.system.checkpoints import Checkpoints
from proda_jax.system.devices import AXIS

# the columns of the paper's Tables 1 and 2, with its odd spellings of two classes put right
TABLE1 = (
    "road sidewalk building wall fence pole light sign vege. terrain sky person rider car truck bus train motor bike "
    "mIoU"
)
TABLE2 = "road sidewalk building wall* fence* pole* light sign vege. sky person rider car bus motor bike mIoU mIoU*"


def scores_in(space: str, seed: int = 0) -> tuple[dict, np.ndarray]:
    """An evaluation of made-up confusions, and the IoU of each class, percent."""
    space = label_space(space)
    count = len(space)
    m = np.random.default_rng(seed).integers(1, 100, (count, count)) + 200 * np.eye(count, dtype=int)
    iou = np.array([100 * m[c, c] / (m[c].sum() + m[:, c].sum() - m[c, c]) for c in range(count)])
    origin = {"task": "gta5", "network": "/runs/a_b/stage3", "stage": "stage3", "checkpoint": "last", "step": 62000,
              "data": "cityscapes, val", "images": 500}  # fmt: skip
    return origin | evaluate.summary(m, space, reported_subsets(space)), iou


def rows_of(latex: str) -> list[list[str]]:
    """The cells of a tabular's rows, without math."""
    lines = [line for line in latex.splitlines() if line.endswith(r"\\")]
    return [[cell.strip().replace("$^*$", "*") for cell in line[:-2].split("&")] for line in lines]


# Scores over 19, 16 and 13 classes


@pytest.mark.parametrize("space", ["cityscapes19", "synthia16"])
def test_a_network_of_either_space_is_scored_over_the_classes_of_both_tables(space):
    scores, iou = scores_in(space)
    classes = label_space(space).classes
    assert scores["miou"] == pytest.approx(iou.mean(), abs=0.006)
    sixteen = [c for c in classes if c not in ("terrain", "truck", "train")]
    thirteen = [c for c in sixteen if c not in ("wall", "fence", "pole")]
    for chosen in ([sixteen] if space == "cityscapes19" else []) + [thirteen]:
        mean = np.mean([iou[classes.index(name)] for name in chosen])
        assert scores[f"miou_{len(chosen)}"] == pytest.approx(mean, abs=0.006)
    assert ("miou_16" in scores) == (space == "cityscapes19")


def test_results_of_training_keep_the_scores_of_their_own_table():
    space = label_space("cityscapes19")
    assert [key for key in evaluate.summary(np.eye(19, dtype=int), space) if key.startswith("miou")] == ["miou"]
    assert reported_subsets(label_space("camvid11")) == {}


# What is written


@pytest.mark.parametrize(("space", "titles"), [("cityscapes19", TABLE1), ("synthia16", TABLE2)])
def test_the_latex_row_has_the_columns_of_the_papers_table(space, titles):
    scores, iou = scores_in(space)
    latex = tables.latex_table(scores, label_space(space))
    header, row = rows_of(latex)
    assert header == ["", *titles.split(" ")]
    means = [scores["miou"]] + ([scores["miou_13"]] if space == "synthia16" else [])
    assert row[0] == "stage3" and [float(cell) for cell in row[1:]] == pytest.approx([*iou, *means], abs=0.06)
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1
    columns = {"cityscapes19": "{l|*{19}{c}|c}", "synthia16": "{l|*{16}{c}|cc}"}[space]
    assert columns in latex and "500 images of cityscapes, val" in latex.splitlines()[0]


def test_latex_survives_classes_and_files_with_special_characters():
    space = label_space("custom", ("a_b", "50 % & more", "sky"))
    scores = {"network": "/runs/my_net.pkl", "data": "folder, x", "images": 2, "miou": 1.0,
              "iou": {"a_b": 2.0, "50 % & more": None, "sky": 0.0}}  # fmt: skip
    header, row = tables.latex_table(scores, space).splitlines()[3:6:2]
    assert header == r" & a\_b & 50 \% \& more & sky & mIoU \\"
    assert row == r"my\_net & 2.0 & - & 0.0 & 1.0 \\"


def test_csv_is_read_back_as_it_was():
    scores, _ = scores_in("cityscapes19")
    (row,) = csv.DictReader(io.StringIO(tables.csv_table(scores)))
    assert all(row[key] == str(scores[key]) for key in ("task", "network", "stage", "checkpoint", "step", "data"))
    assert {name: float(row[name]) for name in scores["iou"]} == scores["iou"]
    assert [float(row[f"mIoU{over}"]) for over in ("", " over 16", " over 13")] == [
        scores[f"miou{over}"] for over in ("", "_16", "_13")]  # fmt: skip


def test_classes_that_are_named_like_columns_keep_their_own():
    space = label_space("custom", ("images", "mIoU", "pixel accuracy", "mDice", "sky"))
    scores = {"network": "x", "data": "folder, x", "images": 2} | evaluate.summary(
        np.arange(25).reshape(5, 5), space, dice=True)  # fmt: skip
    header, values = csv.reader(io.StringIO(tables.csv_table(scores)))
    assert len(set(header)) == len(header)
    row = dict(zip(header, values, strict=True))
    assert (row["images"], row["mIoU"], row["pixel accuracy"]) == ("2", str(scores["miou"]),
                                                                  str(scores["pixel_accuracy"]))  # fmt: skip
    for name in space.classes:
        assert row[name if name == "sky" else f"IoU of {name}"] == str(scores["iou"][name])
        assert row[f"Dice of {name}"] == str(scores["dice"][name])
    lines = tables.class_table(scores).splitlines()
    assert len(lines) == 1 + 5 + 2 and len([line for line in lines if line.startswith("mIoU ")]) == 2


def test_the_terminal_shows_each_class_and_each_mean():
    scores, iou = scores_in("cityscapes19")
    lines = tables.class_table(scores).splitlines()
    assert [line.split()[-1] for line in lines[:19]] == [f"{value:.1f}" for value in iou]
    means = [line.rsplit(maxsplit=1)[0] for line in lines[19:]]
    assert means == ["mIoU", "mIoU over 16", "mIoU over 13", "pixel accuracy"]


# Which checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with one complete stage, one that is interrupted, and one that has not begun; data in memory.

    Returns:
      The experiment, and the scores at each step of each stage that has begun.
    """
    config = tiny_config()
    config.stages = ("source", "again", "later")
    for name, init in zip(config.stages, ("random", "source", "source"), strict=True):
        config[name] = tiny_stage(base.supervised(init, 3))
    data = {"source": block_source(4, 0), "target": block_source(4, 1), "validation": block_source(3, 2)}
    workdir = tmp_path_factory.mktemp("run")
    found = experiment.Experiment(config, workdir, Sources(config, workdir, given=data), devices_used=1)
    model, noted = tiny_model(config, axis_name=AXIS), {}
    score = found.scorer(model, "test")
    for number, stage in enumerate(("source", "again")):
        with contextlib.closing(Checkpoints(workdir / stage / "checkpoints")) as checkpoints:
            for step in (1, 2, 3):
                variables = tiny_variables(model, 10 * number + step)
                state = TrainState(jnp.int32(step), jax.random.key(0), **variables, opt_state=(), skipped=jnp.zeros(2))
                noted[stage, step] = found.summary(score(variables))
                checkpoints.save(state, noted[stage, step]["miou"])
    found.workdir.finish("source", {"name": "source", "steps": 3, "seconds": 1.0, "best": {}, "last": {}})
    return found, noted


def test_an_oracle_is_scored_by_its_name_alone(run, monkeypatch):
    found = run[0]
    monkeypatch.setattr(found.workdir, "result", lambda name: {"name": name} if name != "later" else None)
    assert found.networks.choose(None, "last")[2]["stage"] == "again"
    found.config.again.target_labels = True
    try:
        assert found.networks.choose(None, "last")[2]["stage"] == "source"
        assert found.networks.choose("again", "last")[2]["stage"] == "again"
    finally:
        found.config.again.target_labels = False


@pytest.mark.parametrize(
    ("stage", "which"), [(None, None), (None, "best"), ("source", "best"), ("again", None), ("again", "best")]
)
def test_each_checkpoint_of_a_workdir_gets_the_scores_of_its_network(stage, which, run):
    run, noted = run
    scores, stage, which = run.evaluate(stage, which), stage or "source", which or "last"
    mious = {step: noted[stage, step]["miou"] for step in (1, 2, 3)}
    assert len({entry["miou"] for entry in noted.values()}) == 6  # otherwise nobody could tell one from another
    step = max(mious, key=mious.get) if which == "best" else 3
    assert (scores["stage"], scores["checkpoint"], scores["step"]) == (stage, which, step)
    assert {key: scores[key] for key in noted[stage, step]} == noted[stage, step]
    assert (scores["data"], scores["images"]) == ("camvid, val", 3)


@pytest.mark.parametrize("stage", ["later", "latr"])
def test_a_stage_without_checkpoints_is_refused_with_those_that_have_some(stage, run):
    with pytest.raises(ValueError, match=rf"{stage} has no checkpoints; stages with some: source, again"):
        run[0].evaluate(stage)
    assert not run[0].workdir.folder(stage).exists()


def test_a_stage_of_another_configuration_asks_for_it(run):
    config = run[0].config.copy_and_resolve_references()
    config.stages = ("source",)
    other = experiment.Experiment(config, run[0].workdir.path, run[0].sources, devices_used=1)
    with pytest.raises(ValueError, match="again is of a configuration that has other stages than source: name it"):
        other.evaluate("again")


def test_the_best_checkpoint_of_a_stage_without_scores_is_refused(run, tmp_path):
    config = run[0].config
    with contextlib.closing(Checkpoints(tmp_path / "source" / "checkpoints")) as checkpoints:
        checkpoints.save_network(tiny_variables(tiny_model(config, axis_name=AXIS), 0))
    other = experiment.Experiment(config, tmp_path, run[0].sources, devices_used=1)
    with pytest.raises(ValueError, match="'source' has no checkpoint with a score"):
        other.evaluate("source", "best")
    assert other.evaluate("source")["step"] == 0


# The configuration


def test_a_configuration_is_read_back_from_a_workdir_as_it_was(tmp_path):
    for config in (demo.get_config(), gta5.get_config()):
        provenance.note_configuration(tmp_path, config)
        found = provenance.read_configuration(tmp_path)
        assert found.to_dict() == config.to_dict() and found.is_locked
        for stage in config.stages:
            assert provenance.decisive(found, stage) == provenance.decisive(config, stage)


def test_a_workdir_without_its_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match="config.json is not there.*name the configuration, --config="):
        provenance.read_configuration(tmp_path)
    (tmp_path / "config.json").write_text('{"data"')
    with pytest.raises(ValueError, match="config.json is damaged.*name the configuration, --config="):
        provenance.read_configuration(tmp_path)


def test_images_of_the_source_are_scored_from_its_own_archive(monkeypatch):
    config = gta5.get_config()
    config.data.source.raw_dir, config.data.target.raw_dir = "raw/gta5", "raw/cityscapes"
    seen = []
    monkeypatch.setattr(prepare, "prepare", lambda name, **files: seen.append((name, files["raw_dir"])))
    prepare.prepare_role(config.data, "validation", "data")
    config.data.validation = base.dataset("gta5", "train", (1052, 1914))
    prepare.prepare_role(config.data, "validation", "data")
    config.data.validation.raw_dir = "raw/other"
    prepare.prepare_role(config.data, "validation", "data")
    assert seen == [("cityscapes", "raw/cityscapes"), ("gta5", "raw/gta5"), ("gta5", "raw/other")]


# The command line


def mean_iou(model, variables, truth: fixtures.Truth) -> float:
    """mIoU over CamVid's classes from predictions, in percent; raw labels are train ids there, 11 is void."""
    images = np.stack([image for _, image, _ in truth])
    labels = np.array(fixtures.CAMVID_VALUES, np.uint8)[np.stack([label for *_, label in truth])]
    predict = jax.jit(lambda v, x: evaluate.predict(model.clone(axis_name=None), v, x))
    predicted, ious = np.asarray(predict(variables, images)), []
    for c in range(11):
        both = ((predicted == c) & (labels == c)).sum()
        either = (((predicted == c) | (labels == c)) & (labels < 11)).sum()
        ious += [both / either] if either else []
    return 100 * float(np.mean(ious))


def test_the_command_scores_a_workdir_by_itself_and_other_images_with_its_configuration(tmp_path):
    truth = fixtures.write_camvid(tmp_path / "CamVid", dusk_train_labels=False)
    workdir, config = tmp_path / "run", camvid.get_config("scratch")
    settings = {
        "data.raw_dir": str(tmp_path / "CamVid"), "stages": ("source",), "evaluate_batch_size": 1,
        "model.depths": (1, 1), "model.width": 4, "model.head_channels": 32, "model.feature_channels": 32,
        "views.crop_size": (32, 32),
    } | {f"data.{role}.image_size": (48, 64) for role in ("source", "target", "validation")}  # fmt: skip
    config.update_from_flattened_dict(settings)
    run = experiment.Experiment(config, workdir, Sources(config, workdir))
    model = run.networks.model("source")
    variables = tiny_variables(model, 0)
    with contextlib.closing(Checkpoints(workdir / "source" / "checkpoints")) as checkpoints:
        checkpoints.save_network(variables)
    run.workdir.finish("source", {"name": "source", "steps": 0, "seconds": 0, "best": {}, "last": {}})
    provenance.note_configuration(workdir, config)

    by_itself = run_main("--mode=evaluate", f"--workdir={workdir}")
    assert by_itself.returncode == 0, by_itself.stderr
    scores = json.loads((workdir / "evaluation.json").read_text())
    assert scores["miou"] == pytest.approx(mean_iou(model, variables, truth["dusk_test"]), abs=0.01)
    assert f"mIoU           {scores['miou']:>6.1f} {scores['mdice']:>6.1f}\n" in by_itself.stdout
    (row,) = csv.DictReader(io.StringIO((workdir / "evaluation.csv").read_text()))
    assert (row["stage"], row["checkpoint"], float(row["mIoU"])) == ("source", "last", scores["miou"])
    assert rows_of((workdir / "evaluation.tex").read_text())[1][-1] == f"{scores['miou']:.1f}"

    given = [f"--config.{name}={value}" for name, value in settings.items()]
    others = run_main("--mode=evaluate", "--config=configs/camvid.py:scratch", f"--workdir={workdir}", *given,
                      "--config.data.validation.split=day_train")  # fmt: skip
    assert others.returncode == 0, others.stderr
    scores = json.loads((workdir / "evaluation.json").read_text())
    assert (scores["data"], scores["images"]) == ("camvid, day_train", 4)
    assert scores["miou"] == pytest.approx(mean_iou(model, variables, truth["day_train"]), abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode=evaluate", "--workdir=README.md"], "README.md/config.json is not there"),
        (["--mode=evaluate", "--workdir=x", "--config.seed=1"], "--config.seed needs --config beside it"),
        (["--mode=evaluate", "--config=configs/demo.py", "--config.init_from=README.md", "--stage=stage1"],
         "--stage and --checkpoint choose a network of the workdir"),
        (["--mode=evaluate", "--workdir=x", "--checkpoint=first"], "value should be one of <last|best>"),
        (["--mode=evaluate", "--workdir=x", "--flip"], "--flip is for --mode=predict and export; --mode=evaluate does"),
        (["--config=demo", "--workdir=x", "--stage=source"], "--stage is for --mode=evaluate and predict and export"),
        (["--mode=status"], "--mode=status needs --workdir"),
        (["--mode=status", "--workdir=tests"], "--workdir = tests holds no run"),
    ],
    ids=["no configuration", "settings alone", "two networks", "which", "a flag of another mode", "and in training",
         "status of nothing", "status of no run"],
)  # fmt: skip
def test_flags_that_make_no_sense_are_refused(arguments, message):
    result = run_main(*arguments)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert message in " ".join((result.stdout + result.stderr).splitlines()[-4:])
