"""Settings that cannot work are refused before anything is computed, and the message says what can."""

import importlib
import pathlib
import subprocess

import numpy as np
import pytest
from command import run_main

from proda_jax.adaptation.stages.sections import views_of
from proda_jax.configs import base
from proda_jax.run import provenance, scales, settings

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for path in (ROOT / "configs").rglob("*.py")
    if path.stem not in ("__init__", "base", "deeplabv2", "lite", "small", "common")  # what the others are made of
)


def demo():
    return importlib.import_module("proda_jax.configs.demo").get_config("scratch")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_passes_once_the_weights_that_it_names_exist(name, tmp_path):
    config = importlib.import_module(name).get_config()
    weights = tmp_path / "weights.npz"
    np.savez(weights, nothing=np.zeros(1))
    for kind in ("imagenet", "self_supervised"):
        if any(config[stage].init == kind for stage in config.stages):
            config.model[f"{kind}_weights"] = str(weights)
    for stage in config.stages:
        if config[stage].get("foundation"):
            config[stage].foundation_file = str(weights)
    settings.check(config)


REFUSED = [
    ("data.label_space", "cityscape19", "did you mean 'cityscapes19'"),
    ("data.loader", "memroy", "did you mean 'memory'"),
    ("data.store_scale", 0.0, "a share above 0, up to 1"),
    ("views.scale", ("a", 1), "expected numbers"),
    ("model.dilations", ("a",), "expected numbers"),
    ("stage1.adam_betas", (0.9, "a"), "expected numbers"),
    ("data.store_scale", 1.5, "a share above 0, up to 1"),
    ("data.threads", -1, "0 (one for each core) or more"),
    ("data.source.name", "none", "labelled images, from a source or data.labelled_target, for stage 'source'"),
    ("data.target.name", "none", "the images that are adapted to"),
    ("model.head", "deeplb", "did you mean 'deeplab'"),
    ("model.initialisation", "kaiming", "one of released, he"),
    ("model.dtype", "float16", "did you mean 'bfloat16'"),
    ("handover", "bset", "did you mean 'best'"),
    ("batch_size", 0, "at least 1"),
    ("evaluate_every", 0, "at least 1"),
    ("log_every", -1, "at least 1"),
    ("evaluate_batch_size", 0, "at least 1"),
    ("data.source.name", "gta", "did you mean 'gta5'"),
    ("data.target.name", "camvid", "one of cityscapes, gta5"),  # whose labels are of other classes
    ("model.depths", (1, 1, 1, 1, 1), "two to four groups"),
    ("model.width", -1, "at least 1"),
    ("model.dilations", (), "whole numbers from 1"),
    ("model.head_channels", 40, "a multiple of 32"),
    ("model.feature_channels", 0, "a multiple of 32"),
    ("model.dropout", 1.0, "a share below 1"),
    ("model.input_std", (0.2, 0.0, 0.2), "three positive numbers"),
    ("model.input_mean", (0.5,), "three numbers"),
    ("views.base_width", -1, "at least 0"),
    ("views.strong_operations", -1, "at least 0"),
    ("source.jitter.brightness", 1.0, "from 0 to below 1"),
    ("stage1.init", "random", "an earlier stage"),
    ("views.crop_size", (65, 128), "multiples of views.target_stride"),
    ("stage1.label_scales", (), "positive numbers"),
    ("stage2.label_scales", (0.0, 1.0), "positive numbers"),
    ("views.target_stride", 3, "1, 2, 4"),
    ("stage1.soft_label_stride", 16, "1, 2, 4 or 8"),
    ("views.crop_size", (64, 16), "at least 32 pixels"),
    ("data.target.image_size", (96, 16), "at least 32 pixels"),
    ("data.target.image_size", (96.5, 192), "whole numbers"),
    ("views.scale", (1.5, 0.5), "smallest, largest"),
    ("views.scale", (1.0,), "smallest, largest"),
    ("micro_batches", 0, "at least 1"),
    ("seed", 2**40, "0 to 2147483647"),
    ("stages", ("source", "source"), "each stage once"),
    ("stage1.label_scales", (0.1, 1.0), "at least 32 pixels"),
    ("warmup.discriminator_channels", (), "whole numbers from 1"),
    ("source.backbone_rate", float("inf"), "finite numbers"),
    ("source.head_rate", float("nan"), "finite numbers"),
    ("source.head_rate", 1e39, "finite numbers"),
    ("views.scale", (0.5, float("inf")), "finite numbers"),
    ("model.input_mean", (0.5, float("nan"), 0.5), "finite numbers"),
    ("max_skipped", 0, "at least 1"),
    ("save_every", 0, "at least 1"),
    ("snapshots.images", -1, "at least 0"),
    ("snapshots.features", -1, "at least 0"),
    ("save_minutes", 0.0, "a positive number"),
    ("views.scale", (0.0, 0.5), "smallest, largest"),
    ("views.cutout_fraction", 1.5, "0 to 1"),
    ("stages", (), "names of stages"),
    ("source.kind", "superviesd", "did you mean 'supervised'"),
    ("source.init", "randon", "did you mean 'random'"),
    ("source.steps", 0, "a positive number"),
    ("source.schedule", "polly", "did you mean 'poly'"),
    ("source.schedule_steps", 0, "a positive number"),
    ("source.schedule_steps", 599, "at least source.steps, 600"),
    ("source.momentum", 1.5, "0 to 1"),
    ("source.weight_decay", -1e-4, "zero or more"),
    ("source.backbone_rate", float("nan"), "finite numbers"),
    ("warmup.gan", "lsgan", "one of ls, vanilla"),
    ("warmup.batch_norm", "freeze", "did you mean 'frozen'"),
    ("stage1.temperature", 0.0, "a positive number"),
    ("stage1.weighting", "prototype", "did you mean 'prototypes'"),
    ("stage1.labels_from", "warm_up", "did you mean 'warmup'"),
    ("stage1.labels_from", "stage2", "one of source, warmup"),  # stage2 comes later
    ("stage1.label_source", "fix", "did you mean 'fixed'"),
    ("stage1.consistency_weight", -1.0, "zero or more"),
    ("stage1.ema_momentum", 2.0, "0 to 1"),
    ("model.batch_norm_epsilon", "add", "did you mean 'added'"),
    ("stage1.consistency_over_classes", "max", "one of mean, sum"),
    ("stage1.regulariser", "mrkl", "did you mean 'mrkld'"),
    ("stage2.teacher", "stage3", "one of source, warmup, stage1"),
    ("stage2.distillation_form", "equation_12", "did you mean 'equation12'"),
    ("stage2.label_threshold", -0.5, "0 to 1"),
]


@pytest.mark.parametrize(("setting", "value", "hint"), REFUSED, ids=[f"{name}={value}" for name, value, _ in REFUSED])
def test_a_setting_that_cannot_work_is_named_with_its_value_and_what_can(setting, value, hint):
    config = demo()
    config.update_from_flattened_dict({setting: value})
    with pytest.raises(ValueError) as refusal:
        settings.check(config)
    message = str(refusal.value)
    assert message.startswith(f"config.{setting} = {value!r}: expected "), message
    assert hint in message


def own_folders():
    config = demo()
    config.data.label_space, config.data.classes = "custom", ("road", "sky")
    for role in ("source", "target", "validation"):
        labels = None if role == "target" else f"{role}/labels"
        config.data[role] = base.folder(role, f"{role}/images", labels, (96, 192))
    settings.check(config)
    return config


REFUSED_OF_FOLDERS = [
    ("data.classes", (), "2 to 249 different names"),
    ("data.classes", ("road", "road"), "2 to 249 different names"),
    ("data.classes", ("road",), "what is not the object is a class, too, such as ('background', 'road')"),
    ("data.source.raw_dir", "raw", "None, as data.source.images says where"),
    ("data.colors", ((1, 2, 3),), "a colour for each of the 2 classes"),
    ("data.colors", ((1, 2, 3), (1, 2, 300)), "whole numbers from 0 to 255, not (1, 2, 300)"),
    ("data.colors", ((1, 2, 3), "#ff0000"), "whole numbers from 0 to 255, not '#ff0000'"),
    ("data.classes", ("road", ""), "names of letters in one line, not ''"),
    ("data.classes", ("road", "a\nb"), r"names of letters in one line, not 'a\nb'"),
    ("data.target.name", "gta5", "one of folder"),  # without values of its own
    ("data.source.images", None, "a folder of images"),
    ("data.source.labels", None, "a folder of labels"),
    ("data.validation.labels", None, "a folder of labels"),
    ("data.source.split", "my photos", "letters, digits and underscores"),
    ("data.target.split", "source", "another name for each folder"),
    ("data.source.label_values", ((7, "raod"),), "given class 'raod', which is not in label space 'custom': road, sky"),
    ("data.source.label_values", ((70000, "road"),), "expected 0 to 65535, or an RGB colour"),
    ("data.source.label_values", (7, "road"), "7 is no pair: pairs are written ((0, 'road'), (1, 'sky'))"),
    ("data.source.label_values", (([0, 0, 0], "road"),), "([0, 0, 0], 'road') is no pair"),
    ("data.source.labels", "source/images", "another folder than data.source.images"),
    ("data.source.image_size", ("a", 64), "expected numbers"),
    ("data.classes", ("road", "ignored"), "no class called 'ignored'"),
    ("data.source.split", "all", "other than 'all'"),
]


@pytest.mark.parametrize(("setting", "value", "hint"), REFUSED_OF_FOLDERS)
def test_folders_of_ones_own_are_refused_by_the_setting_that_does_not_fit(setting, value, hint):
    config = own_folders()
    config.update_from_flattened_dict({setting: value})
    with pytest.raises(ValueError) as refusal:
        settings.check(config)
    assert str(refusal.value).startswith(f"config.{setting} = {value!r}: expected "), refusal.value
    assert hint in str(refusal.value)


IDLE = [
    ("source.adam_betas", (0.8, 0.9), "optimizer 'adamw'"),
    ("source.schedule_factor", 0.5, "schedule 'per_epoch'"),
    ("source.schedule_warmup_start", 0.1, "schedule_warmup above 0"),
    ("stage1.regulariser", "mrent", "regulariser_weight above 0"),  # which is 0 in the demo
    ("model.head", "deeplab", "0.1, as head 'deeplab' has no use for it"),
]


@pytest.mark.parametrize(("setting", "value", "hint"), IDLE)
def test_a_setting_that_does_nothing_beside_the_others_is_refused_with_what_it_would_act_beside(setting, value, hint):
    config = demo()
    config.model.dropout = 0.2 if setting == "model.head" else config.model.dropout
    config.model.head_channels = 256
    config.update_from_flattened_dict({setting: value})
    with pytest.raises(ValueError, match="config.model.dropout" if setting == "model.head" else setting) as refusal:
        settings.check(config)
    assert hint in str(refusal.value)


def test_the_width_of_training_follows_the_targets_images_unless_it_is_set():
    config = demo()
    config.data.target.image_size = (192, 384)
    assert views_of(config, "source").base_width == 384
    assert provenance.decisive(config, "source")["views.base_width"] == 384
    config.views.base_width = 100
    assert views_of(config, "source").base_width == provenance.decisive(config, "source")["views.base_width"] == 100


def test_scales_of_training_and_scoring_that_differ_by_more_than_a_third_are_told():
    for name in CONFIGS:
        assert not list(scales.notes(importlib.import_module(name).get_config())), name
    config = demo()
    config.views.base_width = 300
    (note,) = scales.notes(config)
    assert "trains on images 300 pixels wide" in note and "validation images are 192 wide: 1.6 times apart" in note
    config.data.validation.image_size = (160, 320)
    assert not list(scales.notes(config))


def test_stages_are_refused_that_do_not_exist_or_start_from_one_that_has_not_run():
    config = demo()
    config.stages = ("source", "warmpu")
    with pytest.raises(ValueError, match=r"config.stages = 'warmpu'.*did you mean 'warmup'"):
        settings.check(config)
    config.stages = ("warmup", "source")
    with pytest.raises(ValueError, match=r"config.warmup.init = 'source': expected one of random, imagenet"):
        settings.check(config)


def test_a_stage_from_weights_says_which_file_it_lacks_and_how_to_do_without(tmp_path):
    config = demo()
    config.source.init = "imagenet"
    with pytest.raises(ValueError, match=r"config.model.imagenet_weights = None.*--config.source.init=random"):
        settings.check(config)
    config.model.imagenet_weights = str(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match=r"absent.npz.*a file that exists"):
        settings.check(config)


def main(tmp_path, *arguments: str) -> subprocess.CompletedProcess:
    return run_main(f"--workdir={tmp_path / 'work'}", *arguments)


def test_the_command_line_suggests_the_nearest_setting_for_an_unknown_one(tmp_path):
    result = main(tmp_path, "--config=configs/demo.py", "--config.stage1.temprature=2")
    assert result.returncode != 0
    assert "temprature" in result.stderr and "temperature" in result.stderr
    assert not (tmp_path / "work").exists()


@pytest.mark.smoke("cli")
def test_the_command_line_refuses_a_flag_whose_value_stands_apart(tmp_path):
    """`--config.views.flip False` would leave it true, as 'False' is a positional argument."""
    result = main(tmp_path, "--config=configs/demo.py", "--config.views.flip", "False")
    assert result.returncode != 0
    assert "['False']" in result.stderr + result.stdout and "equals sign" in result.stderr + result.stdout
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is needed"),
        (["--config=configs/demo.py", "--workdir=README.md/run"], "--workdir = README.md/run cannot be written to"),
        (["--config=configs/demo.py", "--hosts=2", "--host=1"], "--hosts and --host need --coordinator"),
        (["--config=configs/demo.py", "--coordinator=127.0.0.1:1", "--hosts=2", "--host=2"], "numbered from 0"),
    ],
    ids=["no configuration", "unusable workdir", "no --coordinator", "no such host"],
)
def test_the_command_line_ends_with_what_it_refuses(arguments, message, tmp_path):
    result = main(tmp_path, *arguments)
    assert result.returncode != 0
    assert message in "".join((result.stdout + result.stderr).splitlines()[-4:])


@pytest.mark.parametrize(("section", "name"), [("stage1", "temprature"), ("model", "withd"), ("views", "crop")])
def test_a_misspelt_setting_in_a_configuration_file_is_refused_where_it_is_written(section, name):
    with pytest.raises(AttributeError, match=f'Key "{name}" does not exist'):
        setattr(demo()[section], name, 1)


def test_a_misspelt_setting_at_the_top_is_refused_with_the_nearest():
    config = demo()
    config.batchsize = 3
    with pytest.raises(ValueError, match="did you mean 'batch_size'"):
        settings.check(config)
