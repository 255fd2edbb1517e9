"""An experiment from end to end: stages in order, results, what is done already, and what an interruption leaves."""

import contextlib
import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from survival import checkpoint_of, given
from tiny import CLASSES, block_source, tiny_config, tiny_model, tiny_stage

from proda_jax.adaptation.stages import build
from proda_jax.adaptation.state import TrainState
from proda_jax.configs import base
from proda_jax.data.label_spaces import LABEL_SPACES
from proda_jax.data.memory import MemorySource
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.report.score_tables import table
from proda_jax.run import evaluate, settings
from proda_jax.run.card import Card
from proda_jax.run.experiment import Experiment
from proda_jax.run.records import History
from proda_jax.run.sources import Sources
from proda_jax.system import files
from proda_jax.system.checkpoints import Checkpoints, card_in

STEPS = 3
STAGES = ("source", "warmup", "stage1", "stage2")


def config_of(*stages: str):
    c = tiny_config()
    c.stages = stages or STAGES
    c.source = tiny_stage(base.supervised("random", STEPS))
    c.oracle = tiny_stage(base.supervised("random", STEPS, target_labels=True))
    c.warmup = tiny_stage(base.warmup("source", STEPS))
    c.self_training = tiny_stage(base.self_training("warmup", STEPS))
    c.stage1 = tiny_stage(base.denoise("warmup", STEPS))
    c.stage2 = tiny_stage(base.distill("stage1", "random", STEPS), label_threshold=0.2, extra_norm=True)
    return c


def experiment_in(workdir, config, sources: Sources | None = None) -> Experiment:
    return Experiment(config, workdir, sources or Sources(config, workdir, given=given()), devices_used=1)


class Refusing:
    """A data set that nobody may touch."""

    def __getattr__(self, name: str):
        raise AssertionError(f"{name} of a data set was asked for")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir with every stage complete."""
    workdir = tmp_path_factory.mktemp("finished")
    results = experiment_in(workdir, config_of()).run()
    return workdir, results


def copy_of(workdir: pathlib.Path, destination: pathlib.Path, *without: str) -> pathlib.Path:
    """A copy of a workdir without some stages."""
    shutil.copytree(workdir, destination)
    for name in without:
        shutil.rmtree(destination / name)
    return destination


def files_of(workdir: pathlib.Path) -> dict[str, int]:
    """When each file of the stages was last written, results.json aside."""
    return {
        str(path.relative_to(workdir)): path.stat().st_mtime_ns
        for path in workdir.rglob("*")
        if path.is_file() and path.name != "results.json"
    }


# Programs


@pytest.mark.slow  # its step is the denoising stage's, which test_stages.py runs with its settings
def test_conventional_self_training_goes_on_from_the_warm_up(finished, tmp_path):
    config = config_of("source", "warmup", "self_training")
    results = experiment_in(copy_of(finished[0], tmp_path / "copy", "stage1", "stage2"), config).run()
    assert results["stages"][2]["last"]["step"] == STEPS
    assert not any("ema_params" in path for path in checkpoint_of(tmp_path / "copy" / "self_training")[1])


def test_another_seed_in_another_workdir_shares_the_programs_and_other_settings_do_not(finished, tmp_path, monkeypatch):
    def traced(*arguments, **settings):
        raise AssertionError("a network was traced")

    monkeypatch.setattr(SegmentationNetwork, "__call__", traced)
    config = config_of("source", "warmup")
    config.seed = 1
    results = experiment_in(tmp_path / "seed", config).run()
    assert results["stages"][0]["last"]["miou"] != finished[1]["stages"][0]["last"]["miou"]
    config.source.momentum = 0.5
    with pytest.raises(AssertionError, match="a network was traced"):
        experiment_in(tmp_path / "momentum", config).run()


def test_a_step_is_the_same_wherever_its_stage_starts_and_ends():
    config = config_of()
    model = tiny_model(config)
    setup = functools.partial(build.setup, model=model, teacher=model, steps_per_epoch=1)
    given = setup(config, "stage2")
    config.stage2.init, config.stage2.steps = "warmup", STEPS + 1
    assert setup(config, "stage2") is given
    config.stage2.distillation_weight *= 2
    assert setup(config, "stage2") is not given


# Results


def test_results_have_the_documented_form(finished):
    workdir, results = finished
    assert files.read_json(workdir / "results.json", "") == results
    assert set(results) == {"task", "seed", "stages"}
    assert (results["task"], results["seed"]) == ("tiny", 0)
    assert [stage["name"] for stage in results["stages"]] == list(STAGES)
    for stage in results["stages"]:
        assert set(stage) == {"name", "steps", "best", "last"}  # not how long it took, which is never the same
        assert stage["steps"] == stage["last"]["step"] == STEPS
        assert stage["best"]["step"] in (2, STEPS)
        assert stage["best"]["miou"] >= stage["last"]["miou"]
        for entry in (stage["best"], stage["last"]):
            assert list(entry["iou"]) == list(LABEL_SPACES["camvid11"].classes)
            values = [value for value in entry["iou"].values() if value is not None]
            assert all(0 <= value <= 100 for value in values)
            assert entry["miou"] == pytest.approx(np.mean(values), abs=0.01)
    assert all(name in experiment_in(workdir, config_of()).table() for name in STAGES)
    for name in STAGES:
        assert json.loads((workdir / name / "result.json").read_text())["seconds"] > 0


def test_the_scores_are_those_of_the_network_that_is_handed_on(finished):
    """Intersection over union of pixel sets, from the last checkpoint's predictions."""
    workdir, results = finished
    experiment, validation = experiment_in(workdir, config_of()), given()["validation"]
    model = experiment.networks.model("stage1").clone(axis_name=None)
    predicted = np.asarray(
        jax.jit(lambda v, x: evaluate.predict(model, v, x))(experiment.networks.variables("stage1"), validation.images)
    )
    counted = validation.labels < CLASSES
    expected = {}
    for c, name in enumerate(LABEL_SPACES["camvid11"].classes):
        both, either = ((op((predicted == c), (validation.labels == c)) & counted).sum() for op in
                        (np.logical_and, np.logical_or))  # fmt: skip
        expected[name] = None if either == 0 else pytest.approx(100 * both / either, abs=0.1)
    assert results["stages"][STAGES.index("stage1")]["last"]["iou"] == expected


def test_a_class_that_does_not_occur_has_no_score_and_values_are_percent():
    matrix = np.zeros((CLASSES, CLASSES), np.int64)
    matrix[0, 0], matrix[0, 1], matrix[1, 1] = 30, 10, 20
    scores = json.loads(json.dumps(evaluate.summary(matrix, LABEL_SPACES["camvid11"])))
    iou = dict.fromkeys(LABEL_SPACES["camvid11"].classes) | {"sky": 75.0, "building": 66.67}
    assert scores == {"miou": 70.83, "pixel_accuracy": 83.33, "iou": iou}


def test_synthia_is_scored_over_13_classes_too():
    names = LABEL_SPACES["synthia16"].classes
    matrix = np.diag(np.arange(1, 17))
    matrix[names.index("wall"), names.index("road")] = 4
    scores = evaluate.summary(matrix, LABEL_SPACES["synthia16"])
    wall, road = 4 / 8, 1 / 5
    assert scores["miou"] == pytest.approx(100 * (14 + wall + road) / 16, abs=0.01)
    assert scores["miou_13"] == pytest.approx(100 * (12 + road) / 13, abs=0.01)


def test_the_table_shows_the_score_over_13_classes_where_there_is_one():
    last = {"step": 5, "miou": 40.04, "miou_13": 47.06}
    stage = {"name": "stage1", "steps": 5, "seconds": 1.0, "last": last, "best": last | {"miou": 41.0}}
    head, row = table([stage]).splitlines()
    assert "mIoU over 13 last" in head and row.split()[:6] == ["stage1", "5", "1", "40.0", "47.1", "41.0"]


def test_each_stage_ends_in_another_network_with_what_its_kind_keeps(finished):
    workdir, _ = finished
    networks = {name: checkpoint_of(workdir / name)[1] for name in STAGES}
    kernel = "['network']['params']['head']['classifier']['kernel']"
    assert len({bits[kernel] for bits in networks.values()}) == len(STAGES)
    for name, bits in networks.items():
        assert any("ema_params" in path for path in bits) == (name == "stage1")
        assert any("discriminator" in path for path in bits) == (name == "warmup")
        assert any("extra_norm" in path for path in bits) == (name == "stage2")


# What is done already


def test_running_again_touches_neither_data_nor_files(finished):
    workdir, results = finished
    before, config = files_of(workdir), config_of()
    closed = dict.fromkeys(("source", "target", "validation"), Refusing())
    again = experiment_in(workdir, config, Sources(config, workdir, given=closed)).run()
    assert again == results and files_of(workdir) == before


def test_a_deleted_stage_alone_is_run_again_and_ends_the_same(finished, tmp_path):
    original, results = finished
    workdir = copy_of(original, tmp_path / "copy", "stage2")
    before = files_of(workdir)
    again = experiment_in(workdir, config_of()).run()
    after = files_of(workdir)
    assert {name: after[name] for name in before} == before
    assert (workdir / "stage2" / "result.json").exists()
    assert again == results
    assert checkpoint_of(workdir / "stage2") == checkpoint_of(original / "stage2")


def test_a_stage_whose_result_alone_is_missing_is_not_trained_again(finished, tmp_path):
    original, results = finished
    workdir = copy_of(original, tmp_path / "copy")
    (workdir / "stage1" / "result.json").unlink()
    config = config_of()
    sources = given(source=CountingSource(given()["source"]))
    again = experiment_in(workdir, config, Sources(config, workdir, given=sources)).run()
    assert sources["source"].taken == 0
    assert again == results


class CountingSource:
    """Counts the training batches that are taken from a data set."""

    def __init__(self, source: MemorySource):
        self.source, self.taken, self.labelled = source, 0, True

    def __len__(self) -> int:
        return len(self.source)

    def training_batches(self, *args, **kwargs):
        for batch in self.source.training_batches(*args, **kwargs):
            self.taken += 1
            yield batch


# Interruptions


class Interrupted(Sources):
    """Raises when a step is logged, as a crash or Ctrl-C would."""

    def __init__(self, config, workdir, at: int):
        super().__init__(config, workdir, given=given())
        self.at = at

    @contextlib.contextmanager
    def writer(self, folder):
        yield self

    def write_images(self, step: int, images: dict) -> None:
        pass

    def write_scalars(self, step: int, values: dict) -> None:
        if step == self.at and "gradient_norm" in values:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["warmup", pytest.param("stage1", marks=pytest.mark.slow)])  # it: test_resume.py
def test_an_interrupted_stage_ends_in_the_bits_of_one_that_was_not(stage, finished, tmp_path):
    original, results = finished
    later = STAGES[STAGES.index(stage) :]
    workdir, config = copy_of(original, tmp_path / "copy", *later), config_of(*STAGES[: STAGES.index(stage) + 1])
    for at in (1, 3):  # before the first checkpoint, and after it
        with pytest.raises(KeyboardInterrupt):
            experiment_in(workdir, config, Interrupted(config, workdir, at)).run()
        assert not (workdir / stage / "result.json").exists()
    with contextlib.closing(Checkpoints(workdir / stage / "checkpoints")) as checkpoints:
        assert checkpoints.step() == 2
    again = experiment_in(workdir, config).run()
    assert checkpoint_of(workdir / stage) == checkpoint_of(original / stage)
    assert again["stages"] == results["stages"][: len(config.stages)]
    history = [json.loads(line) for line in (workdir / stage / "history.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in history] == [2, STEPS]
    assert history[0]["seconds"] <= history[1]["seconds"]
    cost = json.loads((workdir / stage / "result.json").read_text())["cost"]
    assert cost["starts"] == 3 and cost["step_bytes"] > 0


def test_every_checkpoint_carries_the_card_of_its_network(finished):
    for name in STAGES:
        with contextlib.closing(Checkpoints(finished[0] / name / "checkpoints", writable=False)) as checkpoints:
            held = card_in(finished[0] / name / "checkpoints" / str(checkpoints.step()))
        model = experiment_in(finished[0], config_of()).networks.model(name)
        assert held == Card.of(config_of(), name, extra_norm=model.extra_norm, network=model).as_json()
        assert Card.from_json(held, name).network() == model.clone(axis_name=None)


# What is handed on, and to whom


@pytest.mark.parametrize(("handover", "step"), [("best", 2), ("last", 4)])
def test_the_next_stage_gets_the_network_that_handover_names(handover, step, finished, tmp_path):
    config = config_of()
    config.handover = handover
    experiment = experiment_in(tmp_path, config)
    variables = experiment_in(finished[0], config_of()).networks.variables("source")
    with contextlib.closing(Checkpoints(tmp_path / "source" / "checkpoints")) as checkpoints:
        for number, miou in ((1, 20.0), (2, 30.0), (3, 10.0), (4, 25.0)):
            network = jax.tree.map(lambda leaf, number=number: leaf + number, variables)
            checkpoints.save(TrainState(jax.numpy.int32(number), jax.random.key(0), **network, opt_state=()), miou)
    handed = experiment.networks.initial("warmup", experiment.networks.model("warmup"))
    jax.tree.map(lambda got, was: np.testing.assert_array_equal(got, was + step), handed, variables)


def test_the_teacher_of_pseudo_labels_is_the_network_that_handover_names(finished, tmp_path):
    """The store's origin tells the two apart, so labels of one are never taken for the other's."""
    original, results = finished
    workdir, config = copy_of(original, tmp_path / "copy"), config_of()
    result = files.read_json(workdir / "warmup" / "result.json", "")
    files.write_json(workdir / "warmup" / "result.json", result | {"best": result["best"] | {"step": 1}})
    assert not experiment_in(workdir, config).prepared.labels("stage1").missing(given()["target"].names)
    config.handover = "best"
    with pytest.raises(ValueError, match="another origin.*network"):
        experiment_in(workdir, config).prepared.labels("stage1")


def test_only_the_oracle_asks_for_target_labels(finished, tmp_path):
    """Every other stage ran in `finished` on a target without any."""
    config = config_of("oracle")
    with pytest.raises(ValueError, match="target images .* have no labels, which stage 'oracle' learns from"):
        experiment_in(tmp_path / "without", config).run()
    assert not (tmp_path / "without").exists()
    target = block_source(4, 1)
    run = experiment_in(tmp_path / "with", config, Sources(config, tmp_path, given=given(target=target)))
    batch = next(run.batches("oracle", None, 0))["target"]
    for image, label in zip(batch["image"], batch["label"], strict=True):
        (record,) = np.flatnonzero((target.images == image).all((1, 2, 3)))
        np.testing.assert_array_equal(label, target.labels[record])


@pytest.mark.slow  # its step: test_stages.py
def test_an_oracle_trains_to_its_end(tmp_path):
    config = config_of("oracle")
    labelled = Sources(config, tmp_path, given=given(target=block_source(4, 1)))
    assert experiment_in(tmp_path / "run", config, labelled).run()["stages"][0]["last"]["step"] == STEPS


def test_of_two_equal_scores_the_later_is_called_best_as_its_network_is_the_one_kept(tmp_path):
    state = TrainState(jax.numpy.int32(0), jax.random.key(0), params={}, batch_stats={}, opt_state=())
    history = History(tmp_path / "history.jsonl", 0)
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        for step, miou in ((1, 30.0), (2, 30.0), (3, 10.0)):
            network = {"params": {"w": np.float32(step)}, "batch_stats": {"m": np.float32(step)}}
            checkpoints.save(state.replace(step=jax.numpy.int32(step), **network), miou)
            history.add({"step": step, "seconds": 0.0, "miou": miou})
        assert checkpoints.step("best") == history.best["step"] == 2


def test_a_stage_that_starts_from_a_network_with_the_extra_normalisation_has_it_too(finished):
    config = config_of(*STAGES, "again")
    config.again = tiny_stage(base.denoise("stage2", STEPS))
    settings.check(config)
    experiment = experiment_in(finished[0], config)
    start = experiment.networks.initial("again", experiment.networks.model("again"))
    jax.tree.map(np.testing.assert_array_equal, start, experiment.networks.variables("stage2"))
    assert "extra_norm" in start["params"]
    config.again = tiny_stage(base.distill("stage1", "stage2", STEPS))  # tiny_stage takes the normalisation away
    with pytest.raises(ValueError, match="config.again.extra_norm = False: expected True, as stage 'stage2'"):
        settings.check(config)


def test_prototypes_start_as_means_of_the_features_that_they_are_compared_with(finished, tmp_path):
    """A second round may keep the labels of an earlier network; its features are those of the one it starts from."""
    config = config_of(*STAGES, "second", "other")
    config.second = tiny_stage(base.denoise("stage1", STEPS, labels_from="warmup"))
    config.other = tiny_stage(base.denoise("stage1", STEPS))
    experiment = experiment_in(copy_of(finished[0], tmp_path / "copy"), config)
    for name in ("second", "other"):
        experiment.workdir.folder(name).mkdir()
    first, second, other = (experiment.prepared.initial_prototypes(name) for name in ("stage1", "second", "other"))
    jax.tree.map(np.testing.assert_array_equal, second, other)
    assert not np.allclose(first.vectors, second.vectors)


def test_a_network_that_starts_from_another_keeps_what_they_share_and_initialises_the_rest(finished):
    workdir, _ = finished
    config = config_of()
    config.stage2.init = "stage1"
    experiment = experiment_in(workdir, config)
    start = experiment.networks.initial("stage2", experiment.networks.model("stage2"))
    given_network = experiment.networks.variables("stage1")
    for kind in ("params", "batch_stats"):
        assert set(start[kind]) == set(given_network[kind]) | {"extra_norm"}
        shared = {name: start[kind][name] for name in given_network[kind]}
        jax.tree.map(np.testing.assert_array_equal, shared, dict(given_network[kind]))
    np.testing.assert_array_equal(start["params"]["extra_norm"]["scale"], 1.0)
