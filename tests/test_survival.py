"""What a run survives: signals, damaged and missing files, full disks, other settings, numbers that go bad."""

import contextlib
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from test_experiment import checkpoint_of
from tiny import block_source, tiny_config, tiny_stage

from configs import base
from proda_jax.data.memory import MemorySource
from proda_jax.experiment import Experiment
from proda_jax.files import alone
from proda_jax.interruption import Interruption, Stopped
from proda_jax.models.weights import load
from proda_jax.sources import NoWriter, Sources
from proda_jax.stages import step as steps
from proda_jax.state import TrainState

pytestmark = pytest.mark.usefixtures("compiled_programs")


def config_of(**settings):
    c = tiny_config()
    c.stages, c.save_every, c.evaluate_every = ("source", "stage1"), 1, 10
    c.source = tiny_stage(base.supervised("random", 4))
    c.stage1 = tiny_stage(base.denoise("source", 4))
    c.stage1.labels_from = "source"
    stages = settings.pop("stages", c.stages)
    c.update_from_flattened_dict(settings)
    c.stages = stages
    return c


class At(Sources):
    """Does something when a step of a stage is logged."""

    def __init__(self, config, stage: str = "", step: int = 0, action=lambda: None):
        given = {"source": block_source(4, 0), "target": block_source(4, 1, labelled=False),
                 "validation": block_source(3, 2)}  # fmt: skip
        super().__init__(config, "unused", given=given)
        self.when, self.action = (stage, step), action

    @contextlib.contextmanager
    def writer(self, folder):
        writer = NoWriter()

        def act(step: int, values: dict) -> None:
            if (folder.name, step) == self.when and "gradient_norm" in values:
                self.action()

        writer.write_scalars = act
        yield writer


def run(workdir, config, sources: Sources | None = None, interruption: Interruption | None = None) -> dict:
    sources = sources or At(config)
    return Experiment(config, workdir, sources, devices_used=1, interruption=interruption).run()


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir, config_of())


def assert_same_end(workdir, whole, *stages: str) -> None:
    """Going on, through the first stage or those that are named, ends as the run did that nothing happened to."""
    original, results = whole
    stages = stages or ("source",)
    assert run(workdir, config_of(stages=stages))["stages"] == results["stages"][: len(stages)]
    for stage in stages:
        assert checkpoint_of(workdir / stage) == checkpoint_of(original / stage)


def checkpoints_in(folder) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# Checkpoints between evaluations


@pytest.mark.parametrize(("stage", "step"), [("source", 3), ("stage1", 2), ("stage1", 4)])
def test_a_run_that_is_interrupted_at_any_step_ends_in_the_same_bits(stage, step, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config_of(), At(config_of(), stage, step, interrupt))
    assert checkpoints_in(tmp_path / stage) == [str(i) for i in range(max(step - 2, 1), step)]
    assert_same_end(tmp_path, whole, "source", "stage1")


def test_checkpoints_are_as_far_apart_as_settings_say(tmp_path):
    config = config_of(save_every=3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config, At(config, "source", 4, interrupt))
    assert checkpoints_in(tmp_path / "source") == ["3"]
    config = config_of(save_every=100, save_minutes=1e-9)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "minutes", config, At(config, "source", 3, interrupt))
    assert checkpoints_in(tmp_path / "minutes" / "source") == ["1", "2"]


def test_the_same_settings_give_the_same_bits_again(whole, tmp_path):
    assert_same_end(tmp_path, whole, "source", "stage1")


# Signals


@pytest.fixture
def interruption():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    listening = Interruption()
    listening.install()
    yield listening
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_finish_and_saves_it(number, whole, tmp_path, interruption, capsys):
    config = config_of(save_every=100)
    sources = At(config, "source", 2, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Stopped, match="source stopped after step 2 of 4"):
        run(tmp_path, config, sources, interruption)
    assert f"{signal.Signals(number).name}: finishing this step" in capsys.readouterr().err
    assert checkpoints_in(tmp_path / "source") == ["2"]
    assert_same_end(tmp_path, whole)


def test_a_signal_in_the_last_step_of_a_stage_stops_before_the_next(whole, tmp_path, interruption):
    config = config_of()
    with pytest.raises(Stopped, match="stopped after stage source"):
        run(tmp_path, config, At(config, "source", 4, lambda: os.kill(os.getpid(), signal.SIGTERM)), interruption)
    assert (tmp_path / "source" / "result.json").exists() and not (tmp_path / "stage1").exists()
    assert_same_end(tmp_path, whole)


def test_a_signal_while_labels_are_made_stops_at_once(whole, tmp_path, interruption, monkeypatch):
    from proda_jax.data.pseudo_labels import PseudoLabels

    write, written = PseudoLabels.write, []

    def write_and_signal(self, name, label):
        write(self, name, label)
        written.append(name)
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(PseudoLabels, "write", write_and_signal)
    with pytest.raises(Stopped, match="SIGTERM"):
        run(tmp_path, config_of(), interruption=interruption)
    assert len(list((tmp_path / "source").glob("soft_labels*/*.npz"))) == 3
    monkeypatch.setattr(PseudoLabels, "write", write)
    assert_same_end(tmp_path, whole, "source", "stage1")


# Damage


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


DAMAGE = {
    "largest file cut": lambda folder: truncate(largest(folder)),
    "largest file gone": lambda folder: largest(folder).unlink(),
    "no training state": lambda folder: shutil.rmtree(folder / "training"),
    "nothing in it": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_put_aside_for_an_older_one(damage, whole, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config_of(), At(config_of(), "source", 4, interrupt))
    DAMAGE[damage](tmp_path / "source" / "checkpoints" / "3")
    assert_same_end(tmp_path, whole)
    printed = capsys.readouterr().out
    assert f"{tmp_path}/source/checkpoints/3 cannot be read" in printed and "put aside as 3.damaged" in printed


def test_a_stage_without_a_checkpoint_that_can_be_read_says_what_to_delete(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config_of(), At(config_of(), "source", 4, interrupt))
    for step in ("2", "3"):
        truncate(largest(tmp_path / "source" / "checkpoints" / step))
    for _ in range(2):  # nothing is put aside: it might be the disk that cannot be read for a while
        with pytest.raises(ValueError, match=rf"no checkpoint in {tmp_path}/source/checkpoints .*, 3, .*: .*delete"):
            run(tmp_path, config_of())
    assert checkpoints_in(tmp_path / "source") == ["2", "3"]


def test_a_damaged_best_network_is_not_looked_for_among_older_ones(tmp_path, monkeypatch):
    config = config_of(handover="best", evaluate_every=1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config, At(config, "stage1", 1, interrupt))
    best = json.loads((tmp_path / "source" / "result.json").read_text())["best"]["step"]
    truncate(largest(tmp_path / "source" / "checkpoints" / str(best) / "network"))
    shutil.rmtree(tmp_path / "stage1")
    with pytest.raises(ValueError, match=rf"checkpoints/{best} cannot be read .*: delete {tmp_path}/source to train"):
        run(tmp_path, config)


def cut_short(path) -> None:
    path.write_text(path.read_text()[:-5])


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("source/settings.json", "is damaged .*: delete .*source to run this stage again"),
        ("source/result.json", "is damaged .*: delete it, and give the same command again"),
        ("stage1/history.jsonl", "is damaged: delete it, which forgets what is in it"),
        ("source/soft_labels_8/origin.json", "is damaged .*: delete .*soft_labels_8, and its labels are made again"),
    ],
)
def test_a_damaged_record_is_named_with_the_remedy(file, told, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / "stage1" / "result.json").unlink()
    cut_short(tmp_path / "run" / file)
    with pytest.raises(ValueError, match=f"{file} {told}"):
        run(tmp_path / "run", config_of())


def test_checkpoints_whose_settings_are_gone_are_refused(whole, tmp_path):
    shutil.copytree(whole[0] / "source", tmp_path / "source")
    (tmp_path / "source" / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"settings.json is missing.*delete .*source"):
        run(tmp_path, config_of())


def test_scores_and_prototypes_that_are_damaged_or_gone_are_made_again(whole, tmp_path, capsys):
    shutil.copytree(whole[0], tmp_path / "run")
    stage = tmp_path / "run" / "stage1"
    (stage / "result.json").unlink()
    (stage / "history.jsonl").unlink()
    truncate(stage / "initial_prototypes.npz")
    for metrics in (stage / "checkpoints").glob("*/metrics/metrics"):
        cut_short(metrics)
    assert_same_end(tmp_path / "run", whole, "source", "stage1")
    assert "metrics is damaged: the score of this checkpoint is forgotten" in capsys.readouterr().out


def test_files_of_weights_are_read_before_the_first_stage_begins(tmp_path):
    config = config_of(**{"model.imagenet_weights": str(tmp_path / "weights.npz")})
    config.stage1.init = "imagenet"
    config.stage1.weighting, config.stage1.consistency_weight = "none", 0.0
    for array, told in ((np.zeros((3, 3)), "conv1.weight"), (np.full((8, 3, 7, 7), np.nan), "conv1.weight")):
        np.savez(tmp_path / "weights.npz", **{"conv1.weight": array})
        with pytest.raises(ValueError, match=told):
            run(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_a_damaged_network_that_is_handed_on_is_made_again(whole, tmp_path):
    original, _ = whole
    shutil.copytree(original / "source", tmp_path / "source")
    truncate(largest(tmp_path / "source" / "checkpoints" / "4" / "network"))
    with pytest.raises(ValueError, match=r"checkpoints/4 cannot be read .*: delete .*source/result.json"):
        run(tmp_path, config_of())
    (tmp_path / "source" / "result.json").unlink()
    assert_same_end(tmp_path, whole)


def test_a_full_disk_leaves_the_last_good_checkpoint(whole, tmp_path, monkeypatch):
    save = ocp.CheckpointManager.save

    def full(self, step, *args, **kwargs):
        if step == 3:
            raise OSError(28, "No space left on device")
        return save(self, step, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", full)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path, config_of())
    assert checkpoints_in(tmp_path / "source") == ["1", "2"]
    assert_same_end(tmp_path, whole)


# Two runs, and other settings


def test_a_second_run_in_a_workdir_is_refused(tmp_path):
    with alone(tmp_path / "lock", "another process runs there", wait=False):
        with pytest.raises(ValueError, match="another process runs there"):
            with alone(tmp_path / "lock", "another process runs there", wait=False):
                pytest.fail("two were let in")
    with alone(tmp_path / "lock", "another process runs there", wait=False):
        pass


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("seed", 1, "config.seed was 0 and is 1 now"),
        ("source.backbone_rate", 0.5, "config.source.backbone_rate was 0.01 and is 0.5 now"),
        ("model.width", 16, "config.model.width was 8 and is 16 now"),
        ("views.crop_size", (32, 32), r"config.views.crop_size was \[32, 64\] and is \[32, 32\] now"),
        ("data.source.split", "other", "config.data.source.split was 'train' and is 'other' now"),
    ],
)
def test_a_workdir_of_other_settings_is_refused_with_the_difference(setting, value, told, whole):
    with pytest.raises(ValueError, match=f"source was made with other settings: {told}.*Use another workdir"):
        run(whole[0], config_of(**{setting: value}))


def test_settings_that_decide_nothing_may_change(whole):
    config = config_of(log_every=3, save_every=7, evaluate_batch_size=1)
    config.data.source.raw_dir = "elsewhere"
    assert run(whole[0], config) == whole[1]


# Numbers that go bad


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    def train_step(state, batch, teacher, *, setup):
        new = state.replace(step=state.step + 1, params={"w": state.params["w"] + batch})
        return new, {"loss": jnp.where(jnp.isnan(batch), 0.0, batch), "gradient_norm": jnp.float32(1)}

    step = jax.jit(lambda state, batch: steps.unless_not_finite(train_step)(state, batch, None, setup=None))
    state = TrainState(jnp.int32(0), jax.random.key(0), {"w": jnp.float32(0)}, {}, (), skipped=jnp.zeros(2, jnp.int32))
    expected = [(1, 0, 0), (1, 1, 1), (1, 2, 2), (3, 2, 0), (3, 3, 1)]
    for number, (batch, (value, total, in_row)) in enumerate(
        zip((1.0, np.nan, np.inf, 2.0, -np.inf), expected, strict=True), start=1
    ):
        state, metrics = step(state, jnp.float32(batch))
        assert (int(state.step), float(state.params["w"])) == (number, value)
        assert state.skipped.tolist() == [total, in_row] and int(metrics["skipped"]) == total


def test_training_that_goes_astray_stops_with_a_diagnosis_and_keeps_a_finite_network(tmp_path):
    config = config_of(**{"source.backbone_rate": 1e30, "source.head_rate": 1e30, "source.steps": 20, "max_skipped": 3})
    with pytest.raises(FloatingPointError, match=r"the last 3 steps up to step \d+ were left out.*source_ce.*rate"):
        run(tmp_path, config)
    step, bits = checkpoint_of(tmp_path / "source")
    assert step >= 3
    for path, value in bits.items():
        if "params" in path or "batch_stats" in path:
            assert np.isfinite(np.frombuffer(value, np.float32)).all(), path


def test_a_source_without_any_label_that_counts_trains_on_without_harm(tmp_path):
    config, sources = config_of(), At(config_of())
    sources.open("source").labels[:] = 250
    results = run(tmp_path, config, sources)
    assert [stage["steps"] for stage in results["stages"]] == [4, 4]


def test_a_target_without_a_confident_pixel_trains_on(tmp_path):
    config = config_of()
    config.stages = ("source", "stage2")
    config.stage2 = tiny_stage(base.distill("source", "source", 2), label_threshold=1.0)
    results = run(tmp_path, config)
    assert [stage["steps"] for stage in results["stages"]] == [4, 2]
    for path in (tmp_path / "source" / "hard_labels_1_flipped").glob("*.npz"):
        with np.load(path) as arrays:
            assert (arrays["label"] == 250).all()


# Other numbers of devices


def networks_of(workdir, stages) -> dict[str, np.ndarray]:
    return {f"{stage} {name}": array for stage in stages for name, array in load(workdir / stage).arrays.items()}


def assert_close(networks: dict, expected: dict, tolerance: float) -> None:
    """Each array differs by less than a share of its largest value; of one, where that is smaller.

    Biases start at zero: in twenty steps they move by some thousandths, of which rounding is a large share.
    """
    errors = {
        name: np.abs(networks[name] - array).max() / max(np.abs(array).max(), 1.0) for name, array in expected.items()
    }
    assert max(errors.values()) < tolerance, {name: error for name, error in errors.items() if error >= tolerance}


def test_a_checkpoint_of_one_device_continues_on_two(whole, tmp_path):
    config = config_of(stages=("source",))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config, At(config, "source", 3, interrupt))
    Experiment(config, tmp_path, At(config), devices_used=2).run()
    assert_close(networks_of(tmp_path, ("source",)), networks_of(whole[0], ("source",)), 1e-4)


@pytest.mark.slow
def test_one_two_and_four_devices_train_alike_over_twenty_steps_of_every_stage(tmp_path):
    config = config_of(save_every=20, evaluate_every=20)
    config.stages, config.batch_size = ("source", "warmup", "stage1", "stage2"), 4
    config.warmup = tiny_stage(base.warmup("source", 20))
    config.stage2 = tiny_stage(base.distill("source", "source", 20), label_threshold=0.2)
    config.source.steps = config.stage1.steps = 20
    for name in config.stages:  # at the method's rate; at those of tiny networks rounding soon flips an argmax
        config[name].backbone_rate = config[name].head_rate = 1e-4
    networks = {}
    for count in (1, 2, 4):
        Experiment(config, tmp_path / str(count), At(config), devices_used=count).run()
        networks[count] = networks_of(tmp_path / str(count), config.stages)
    for count in (2, 4):
        assert_close(networks[count], networks[1], 1e-3)


@pytest.mark.parametrize(
    ("records", "size", "crop"),
    [(1, (50, 91), (36, 68)), (2, (24, 40), (32, 64))],
    ids=["one image and a crop of odd eighths", "less than a crop"],
)
def test_odd_data_sets_run_through(records, size, crop, tmp_path):
    """A single image whose size no stride divides; images that do not fill the crop."""
    config = config_of(**{"source.steps": 1, "stage1.steps": 1})
    config.views.crop_size = crop
    for role in ("source", "target", "validation"):
        config.data[role].image_size = size
    generator = np.random.default_rng(0)

    def source(labelled: bool) -> MemorySource:
        image = generator.integers(0, 256, (records, *size, 3)).astype(np.uint8)
        label = generator.integers(0, 11, (records, *size)).astype(np.uint8)
        return MemorySource(image, label if labelled else None)

    given = {"source": source(True), "target": source(False), "validation": source(True)}
    results = run(tmp_path, config, Sources(config, tmp_path, given=given))
    assert [stage["last"]["step"] for stage in results["stages"]] == [1, 1]
    assert all(np.isfinite(array).all() for array in load(tmp_path / "stage1").arrays.values())
