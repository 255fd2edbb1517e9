"""Networks from files in place of stages that were trained, evaluation of any network, and runs without scores."""

import jax
import numpy as np
import pytest
from tiny import CLASSES, block_source, tiny_config, tiny_stage

from proda_jax.configs import base
from proda_jax.data.checks import NONE
from proda_jax.models.weights.contents import Weights
from proda_jax.models.weights.files import load, save
from proda_jax.models.weights.torch_names import to_torch
from proda_jax.report import score_tables as tables
from proda_jax.run import evaluate, experiment, settings, train
from proda_jax.run.sources import Sources
from proda_jax.system.files import read_json

PLACES = ("warmup", "stage1", "stage2", "stage3")


def config_of(*stages: str):
    c = tiny_config()
    c.stages = stages or PLACES
    c.warmup = tiny_stage(base.warmup("random", 2))
    c.stage1 = tiny_stage(base.denoise("warmup", 2))
    c.stage2 = tiny_stage(base.distill("stage1", "random", 2), label_threshold=0.2)
    c.stage3 = tiny_stage(base.distill("stage2", "random", 2), label_threshold=0.2)
    return c


def given(validation=None) -> dict:
    return {
        "source": block_source(4, 0),
        "target": block_source(4, 1, labelled=False),
        "validation": validation or block_source(3, 2),
    }


def run_in(workdir, config, data: dict | None = None) -> experiment.Experiment:
    return experiment.Experiment(config, workdir, Sources(config, workdir, given=data or given()), devices_used=1)


def network_file(path, config, *, seed: int = 0, mean: float = 0.3, extra_norm: bool = False):
    """A file of a network in the released code's names, which wants centred input; and its variables."""
    networks = run_in("unused", config).networks
    variables = jax.device_get(networks.initialise(networks.network(extra_norm=extra_norm), jax.random.key(seed)))
    variables["batch_stats"]["input"]["mean"] = np.full(3, mean, np.float32)
    save(Weights(to_torch(variables)), path)
    return str(path), variables


def scores_of(variables: dict, source) -> float:
    """mIoU from predictions, in percent."""
    model = run_in("unused", config_of()).networks.model("stage1").clone(axis_name=None)
    predicted = np.asarray(jax.jit(lambda v, x: evaluate.predict(model, v, x))(variables, source.images))
    counted, ious = source.labels < CLASSES, []
    for c in range(CLASSES):
        both = ((predicted == c) & (source.labels == c) & counted).sum()
        either = (((predicted == c) | (source.labels == c)) & counted).sum()
        ious += [both / either] if either else []
    return 100 * float(np.mean(ious))


@pytest.mark.parametrize("place", [PLACES[0], *(pytest.param(p, marks=pytest.mark.slow) for p in PLACES[1:-1])])
def test_the_next_stage_starts_from_a_network_in_a_file_as_if_it_had_been_trained(tmp_path, place):
    following = PLACES[PLACES.index(place) + 1]
    config = config_of(place, following)
    config[place].weights, variables = network_file(tmp_path / "network.npz", config)
    if following in ("stage2", "stage3"):
        config[following].init = place  # whose network is the student's start too
    settings.check(config)
    results = run_in(tmp_path / "run", config).run()
    taken, trained = results["stages"]
    assert (taken["name"], taken["steps"]) == (place, 0) and (trained["name"], trained["steps"]) == (following, 2)
    assert taken["last"]["miou"] == pytest.approx(scores_of(variables, given()["validation"]), abs=0.01)
    run = run_in(tmp_path / "run", config)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(run.networks.variables(place)), variables)
    # what it learns from was made by that network, and the student keeps its input convention
    assert list((tmp_path / "run" / place).glob("*labels*/origin.json"))
    student = run.networks.variables(following)
    np.testing.assert_array_equal(student["batch_stats"]["input"]["mean"], np.full(3, 0.3, np.float32))


def test_a_network_in_a_file_is_the_best_of_its_stage(tmp_path):
    config = config_of("warmup")
    config.handover = "best"
    config.warmup.weights, variables = network_file(tmp_path / "network.npz", config)
    run = run_in(tmp_path / "run", config)
    run.run()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(run.networks.variables("warmup")), variables)


def test_the_extra_normalisation_of_a_network_in_a_file_is_kept(tmp_path):
    """A checkpoint of stage 2 in the place of the warm-up: stage 1 starts from all of it."""
    config = config_of("warmup", "stage1")
    config.warmup.weights, variables = network_file(tmp_path / "network.npz", config, extra_norm=True)
    settings.check(config)
    run = run_in(tmp_path / "run", config)
    run.begin()
    run.complete("warmup")
    start = run.networks.initial("stage1", run.networks.model("stage1"))
    for network in (run.networks.variables("warmup"), start):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(network), variables)
    config.init_from = config.warmup.weights
    assert run_in(tmp_path / "other", config).evaluate()["miou"] == run.results()["stages"][0]["last"]["miou"]
    config.stages = ("warmup", "stage2")
    config.stage2.init = config.stage2.teacher = "warmup"  # and stage 2 says that its student has none
    with pytest.raises(ValueError, match="'stage2' starts from a network with extra_norm, .* config.stage2.extra_norm"):
        run_in(tmp_path / "run", config).run()


@pytest.mark.slow  # another program of stage 1; that it starts from the whole network, the test above says
def test_stage_1_trains_a_network_with_the_extra_normalisation(tmp_path):
    config = config_of("warmup", "stage1")
    config.warmup.weights, _ = network_file(tmp_path / "network.npz", config, extra_norm=True)
    run = run_in(tmp_path / "run", config)
    run.run()
    first, trained = (run.networks.variables(name)["params"] for name in ("warmup", "stage1"))
    assert not np.array_equal(trained["extra_norm"]["scale"], first["extra_norm"]["scale"])


def test_a_network_does_not_take_the_place_of_one_that_was_trained_there(tmp_path):
    config = config_of("warmup")
    run = run_in(tmp_path / "run", config)
    run.finish = lambda *_, **facts: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    config.warmup.weights, _ = network_file(tmp_path / "network.npz", config)
    with pytest.raises(ValueError, match="config.warmup.weights was None and is .*network.npz"):
        run_in(tmp_path / "run", config).run()
    (tmp_path / "run" / "warmup" / "settings.json").unlink()  # also where nothing remembers the settings
    with pytest.raises(ValueError, match="settings.json is missing.*delete .*warmup to run this stage again"):
        run_in(tmp_path / "run", config).run()


def test_taking_a_network_can_be_interrupted_and_the_file_be_corrected(tmp_path):
    config = config_of("warmup")
    config.warmup.weights, _ = network_file(tmp_path / "network.npz", config)
    run = run_in(tmp_path / "run", config)
    run.finish = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    _, variables = network_file(tmp_path / "network.npz", config, seed=1)
    run_in(tmp_path / "run", config).run()
    found = run_in(tmp_path / "run", config).networks.variables("warmup")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), variables)


def test_scoring_a_network_needs_no_source_images(tmp_path):
    config = config_of("stage3")
    config.stage3.weights, _ = network_file(tmp_path / "network.npz", config)
    data = {"validation": block_source(3, 2)}
    config.data.source.raw_dir = config.data.target.raw_dir = str(tmp_path / "absent")
    assert run_in(tmp_path / "run", config, data).run()["stages"][0]["last"]["miou"] is not None


def test_a_network_that_was_taken_is_not_taken_again(tmp_path):
    config = config_of("stage1")
    config.stage1.weights, _ = network_file(tmp_path / "network.npz", config)
    results = run_in(tmp_path / "run", config).run()
    (tmp_path / "network.npz").unlink()
    assert run_in(tmp_path / "run", config).run() == results


def test_a_network_that_was_taken_is_read_back_from_its_stage(tmp_path):
    config = config_of("stage1")
    config.data.validation.name = NONE
    config.stage1.weights, variables = network_file(tmp_path / "network.npz", config)
    run_in(tmp_path / "run", config, given() | {"validation": None}).run()
    found = load(tmp_path / "run" / "stage1")
    assert (found.step, found.best_miou, found.prototypes) == (0, None, None)
    expected = to_torch(variables)
    assert found.arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found.arrays[name], array)


def test_weights_for_another_network_are_refused_by_name(tmp_path):
    config = config_of("stage1")
    config.stage1.weights, _ = network_file(tmp_path / "network.npz", config)
    config.model.width = 16
    with pytest.raises(ValueError, match=r"network.npz holds a network of width 8, config.model.width is 16"):
        run_in(tmp_path / "run", config).run()
    config.model.width, config.data.label_space = 8, "cityscapes19"
    with pytest.raises(ValueError, match=r"network.npz scores 11 classes, label space cityscapes19 has 19"):
        run_in(tmp_path / "run", config).run()


def test_a_file_of_weights_that_is_not_there_is_refused_before_anything_is_computed(tmp_path):
    config = config_of()
    config.stage1.weights = str(tmp_path / "absent.pkl")
    with pytest.raises(ValueError, match=r"config.stage1.weights = .*absent.pkl': expected a file that exists"):
        settings.check(config)


def test_training_with_a_network_to_evaluate_is_refused_with_where_to_name_it():
    config = config_of()
    config.init_from = "network.pkl"
    with pytest.raises(ValueError, match=r"config.init_from = 'network.pkl'.*config.<stage>.weights"):
        settings.check(config)


# Evaluation


def test_a_network_in_a_file_is_scored_without_training_anything(tmp_path):
    config = config_of()
    config.init_from, variables = network_file(tmp_path / "network.npz", config)
    settings.check_evaluation(config)
    scores = run_in(tmp_path / "run", config).evaluate()
    assert scores["miou"] == pytest.approx(scores_of(variables, given()["validation"]), abs=0.01)
    assert scores["network"] == config.init_from
    table = tables.class_table(scores)
    assert f"{scores['miou']:.1f}" in table and all(name in table for name in scores["iou"])


def test_without_a_file_the_last_complete_stage_is_scored(tmp_path):
    config = config_of("stage1")
    config.stage1.weights, _ = network_file(tmp_path / "network.npz", config)
    with pytest.raises(ValueError, match="has no complete stage: name a file"):
        run_in(tmp_path / "run", config).evaluate()
    results = run_in(tmp_path / "run", config).run()
    scores = run_in(tmp_path / "run", config).evaluate()
    assert scores["miou"] == results["stages"][0]["last"]["miou"] and scores["network"].endswith("stage1")


# Without labelled target images


def test_stages_run_without_validation_images_and_say_that_there_are_no_scores(tmp_path):
    config = config_of("warmup", "stage1", "stage2")
    config.data.validation.name = NONE
    config.stage2.extra_norm = True  # as in test_experiment.py, whose programs it so takes
    settings.check(config)
    results = run_in(tmp_path / "run", config, given() | {"validation": None}).run()
    assert [stage["last"] for stage in results["stages"]] == [{"step": 2}] * 3
    assert [stage["best"] for stage in results["stages"]] == [{"step": 2}] * 3
    text = run_in(tmp_path / "run", config, given() | {"validation": None}).table()
    assert "no scores" in text and all(name in text for name in config.stages)
    assert read_json(tmp_path / "run" / "results.json", "") == results


def test_an_interrupted_stage_without_scores_goes_on(tmp_path, monkeypatch):
    config = config_of("warmup")
    config.data.validation.name, config.evaluate_every = NONE, 1
    whole = run_in(tmp_path / "whole", config)
    whole.run()
    add = train.History.add

    def interrupt_second(self, entry: dict) -> None:
        if entry["step"] == 2:
            raise KeyboardInterrupt
        add(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(train.History, "add", interrupt_second)
        with pytest.raises(KeyboardInterrupt):
            run_in(tmp_path / "run", config).run()
    again = run_in(tmp_path / "run", config)
    again.run()
    ends = (jax.device_get(run.networks.variables("warmup")) for run in (whole, again))
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_the_best_network_cannot_be_handed_on_where_nothing_is_scored():
    config = config_of()
    config.data.validation.name, config.handover = NONE, "best"
    with pytest.raises(ValueError, match=r"config.handover = 'best': expected 'last'"):
        settings.check(config)
    config.handover = "last"
    with pytest.raises(ValueError, match=r"config.data.validation.name = 'none'"):
        settings.check_evaluation(config)
