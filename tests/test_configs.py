"""The configurations: each loads and is possible, says what it promises, and the two large ones run through."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest
from fixtures import write_camvid, write_cityscapes, write_gta5, write_synthia
from jax.experimental.compilation_cache import compilation_cache as cache

from configs import base, camvid, gta5, gta5_released, synthia
from proda_jax import experiment, settings
from proda_jax.data.label_spaces import label_space
from proda_jax.models.torch_names import to_torch
from proda_jax.sources import Sources
from proda_jax.stages import build

ROOT = pathlib.Path(__file__).parents[1]
FULL_SIZE = ("gta5", "synthia", "gta5_released")
STAGES = ("warmup", "stage1", "stage2", "stage3")


def leaves(config: ml_collections.ConfigDict) -> dict:
    """{'section.name': value} of every setting."""
    flat = {}
    for key, value in config.items(preserve_field_references=False):
        if isinstance(value, ml_collections.ConfigDict):
            flat |= {f"{key}.{name}": leaf for name, leaf in leaves(value).items()}
        else:
            flat[key] = value
    return flat


def with_weights(config: ml_collections.ConfigDict, path: pathlib.Path) -> ml_collections.ConfigDict:
    config.model.imagenet_weights = config.model.self_supervised_weights = str(path)
    return config


@pytest.mark.parametrize("name", [*FULL_SIZE, "custom"])
def test_a_missing_weight_file_is_refused_and_named_before_anything_is_computed(name):
    with pytest.raises(ValueError, match="config.model.imagenet_weights = None: expected a file with"):
        settings.check(importlib.import_module(f"configs.{name}").get_config())


@pytest.mark.parametrize("config", [gta5, synthia, gta5_released])
def test_full_recipes_run_long_stages_in_the_papers_order(config):
    c = config.get_config()
    assert c.stages == STAGES
    assert all(c[name].steps >= 30_000 for name in c.stages)
    assert [c[name].kind for name in c.stages] == ["warmup", "denoise", "distill", "distill"]
    assert (c.warmup.init, c.stage1.init, c.stage2.init) == ("imagenet", "warmup", "self_supervised")
    assert (c.stage2.teacher, c.stage3.teacher) == ("stage1", "stage2")
    assert c.evaluate_every == 1000


def test_synthia_differs_from_gta5_in_its_data_and_the_regulariser_alone():
    ours, theirs = leaves(synthia.get_config()), leaves(gta5.get_config())
    differing = {key for key in ours | theirs if ours.get(key) != theirs.get(key)}
    assert differing == {
        "task", "data.label_space", "data.source.name", "data.source.image_size", "stage1.regulariser_weight"
    }  # fmt: skip
    assert ours["stage1.regulariser_weight"] == 0.0


def test_the_released_configuration_changes_only_the_rows_in_which_our_default_is_another():
    ours, theirs = leaves(gta5_released.get_config()), leaves(gta5.get_config())
    differing = {key: value for key, value in ours.items() if theirs[key] != value}
    steps = {f"{stage}.backbone_steps": "released" for stage in ("warmup", "stage2", "stage3")}
    assert differing == steps | {
        "task": "gta5_released",
        "handover": "best",
        "model.batch_norm_epsilon": "clamped",
        "warmup.backbone_rate": 1e-4,
        "warmup.head_rate": 1e-3,
        "warmup.batch_norm": "batch",
        "stage1.prototype_init_passes": 4,
        "stage2.distillation_form": "released",
        "stage3.distillation_form": "released",
        "stage3.init": "stage2",
    }


def test_camvid_large_is_larger_and_nothing_else_is_accepted():
    small, large = camvid.get_config(), camvid.get_config("large")
    settings.check(large)
    assert large.views.crop_size[0] > small.views.crop_size[0] and large.model.width > small.model.width
    with pytest.raises(ValueError, match="camvid.py:huge: expected"):
        camvid.get_config("huge")


@pytest.mark.parametrize("size", ["small", "large"])
def test_the_smallest_camvid_photograph_still_fills_a_crop(size):
    c = camvid.get_config(size)
    height, width = c.data.source.image_size
    smallest = c.views.base_width * c.views.scale[0]
    assert height * smallest / width >= c.views.crop_size[0] and smallest >= c.views.crop_size[1]


@pytest.mark.parametrize("name", ["camvid", "studies.demo"])
def test_self_training_and_stage_1_are_compared_on_equal_terms(name):
    c = importlib.import_module(f"configs.{name}").get_config()
    training = ("init", "steps", "backbone_rate", "head_rate", "schedule_steps", "jitter")
    labels = ("labels_from", "label_scales", "label_flip", "soft_label_stride", "soft_label_interpolation")
    for setting in training + labels:
        assert c.self_training[setting] == c.stage1[setting], setting


def test_no_setting_is_without_a_reader():
    files = [*(ROOT / "proda_jax").rglob("*.py"), *(ROOT / "data_prep").glob("*.py")]
    code = "\n".join(path.read_text() for path in files if path.name != "settings.py")
    c = gta5.get_config()
    c.source = base.supervised("random", 1)
    indirect = {"brightness", "contrast", "saturation", "white_balance"}  # handed on as **stage.jitter
    indirect |= {"imagenet_weights", "self_supervised_weights"}  # read as f"{init}_weights"
    indirect |= {"source", "target", "validation"}  # roles of c.data
    names = {key.split(".")[-1] for key in leaves(c)} - indirect
    unread = [name for name in sorted(names) if not any(form in code for form in (f".{name}", f'"{name}"'))]
    assert unread == []


def miniature(config: ml_collections.ConfigDict, folder: pathlib.Path) -> ml_collections.ConfigDict:
    """The configuration with nothing but sizes, numbers of steps, and paths changed."""
    c = config
    c.batch_size, c.evaluate_batch_size, c.summaries = 2, 2, False
    c.data.source.raw_dir, c.data.target.raw_dir = str(folder / "source"), str(folder / "target")
    for role in ("source", "target", "validation"):
        c.data[role].image_size = (64, 96)
    c.views.crop_size, c.views.base_width = (32, 64), 96
    c.model.depths, c.model.width = (1, 1, 1, 1), 8
    c.model.dilations, c.model.head_channels, c.model.feature_channels = (1, 2), 32, 32
    for name in c.stages:
        c[name].steps = 2
    c.stage1.prototype_min_pixels = c.stage1.prototype_init_min_pixels = 1
    return c


def write_weights(config: ml_collections.ConfigDict, path: pathlib.Path, seed: int) -> dict[str, np.ndarray]:
    """A file of weights for the configuration's backbone, under PyTorch's names and with entries of no use here."""
    model = build.network(config.model, 2, extra_norm=False, axis_name=None)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 32, 64, 3), np.float32), train=False))
    generator = np.random.default_rng(seed)
    backbone = {
        kind: {"backbone": jax.tree.map(lambda leaf: generator.uniform(0.01, 0.1, leaf.shape), tree["backbone"])}
        for kind, tree in shapes.items()
    }
    arrays = {name: array.astype(np.float32) for name, array in to_torch(backbone).items()}
    np.savez(path, **arrays, **{"fc.weight": np.zeros((3, 4)), "bn1.num_batches_tracked": np.zeros(())})
    return arrays


@pytest.fixture
def compilation_cache(tmp_path):
    """Compiled programs on disk, as main.py keeps them: stage 3 then takes over what stage 2 compiled."""
    before = jax.config.jax_compilation_cache_dir
    cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "compiled"))
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    cache.reset_cache()


@pytest.mark.usefixtures("compilation_cache")
@pytest.mark.parametrize(("config", "write", "classes"), [(gta5, write_gta5, 19), (synthia, write_synthia, 16)])
def test_the_full_recipe_runs_through_every_stage(config, write, classes, tmp_path):
    write(tmp_path / "source", 4)
    write_cityscapes(tmp_path / "target", train=4, val=2, train_labels=False)
    c = miniature(config.get_config(), tmp_path)
    arrays = {}
    for seed, kind in enumerate(("imagenet", "self_supervised")):
        c.model[f"{kind}_weights"] = str(tmp_path / f"{kind}.npz")
        arrays[kind] = write_weights(c, tmp_path / f"{kind}.npz", seed)
    settings.check(c)
    workdir = tmp_path / "run"
    run = experiment.Experiment(c, workdir, Sources(c, workdir), devices_used=1)

    results = run.run()

    assert [(stage["name"], stage["steps"]) for stage in results["stages"]] == [(name, 2) for name in STAGES]
    assert results == json.loads((workdir / "results.json").read_text())
    names = label_space(c.data.label_space).classes
    for stage in results["stages"]:
        assert list(stage["last"]["iou"]) == list(names) and len(names) == classes
        assert 0.0 <= stage["last"]["miou"] <= stage["best"]["miou"] <= 100.0
        assert ("miou_13" in stage["last"]) == (classes == 16)
    for store in ("warmup/soft_labels_8", "stage1/hard_labels_0.95_flipped", "stage2/hard_labels_0.95_flipped"):
        assert len(list((workdir / store).glob("*.npz"))) == 4, store
    for name, kind in (("warmup", "imagenet"), ("stage2", "self_supervised"), ("stage3", "self_supervised")):
        start = run.initial_variables(name, run.model(name))
        stem = np.asarray(start["params"]["backbone"]["conv1"]["kernel"]).transpose(3, 2, 0, 1)
        np.testing.assert_array_equal(stem, arrays[kind]["conv1.weight"], err_msg=name)
        assert ("extra_norm" in start["params"]) == (kind == "self_supervised"), name
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(run.variables("stage3"))))

    again = experiment.Experiment(c, workdir, Sources(c, workdir), devices_used=1)
    again.run_stage = lambda name: pytest.fail(f"stage {name} was done, and was run again")
    assert again.run() == results


def test_the_command_trains_from_a_folder_of_photographs_and_ends_with_a_table(tmp_path):
    """Where dusk has no labels; with sizes and steps overridden, and fewer stages."""
    write_camvid(tmp_path / "CamVid", dusk_train_labels=False)
    stages = ("source", "stage1", "stage2")
    command = [
        sys.executable, "main.py", "--config=configs/camvid.py", f"--workdir={tmp_path / 'run'}",
        f"--config.data.raw_dir={tmp_path / 'CamVid'}", f"--config.stages={stages}", "--config.stage1.init=source",
        "--config.stage1.labels_from=source",
        "--config.batch_size=2", "--config.evaluate_batch_size=1", "--config.model.depths=(1, 1)",
        "--config.model.width=4", "--config.model.head_channels=32", "--config.model.feature_channels=32",
        "--config.views.crop_size=(32, 32)", "--config.views.base_width=64",
        *(f"--config.data.{role}.image_size=(48, 64)" for role in ("source", "target", "validation")),
        *(f"--config.{name}.steps=1" for name in stages),
    ]  # fmt: skip
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # a single device
    result = subprocess.run(command, cwd=ROOT, env=os.environ | flags, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [stage["name"] for stage in results["stages"]] == list(stages)
    for stage in results["stages"]:  # each stands in the table that is printed, with its score
        assert any(line.startswith(stage["name"]) and f"{stage['last']['miou']:.1f}" in line
                   for line in result.stdout.splitlines()), result.stdout  # fmt: skip
    assert list((tmp_path / "run" / "stage1" / "summaries").iterdir())
