"""`main.py` from raw archives to its table, through every stage; nothing but sizes, steps and paths is overridden."""

import json
import pathlib

import command
import fixtures
import jax
import numpy as np
import pytest
import torch
from PIL import Image

from proda_jax.adaptation.stages import build
from proda_jax.configs import gta5
from proda_jax.data.label_spaces import label_space
from proda_jax.data_prep.summary import Summary
from proda_jax.models.weights.files import load
from proda_jax.models.weights.torch_names import to_torch

STAGES = ("warmup", "stage1", "stage2", "stage3")
NETWORK = {
    "model.depths": (1, 1), "model.width": 8, "model.dilations": (1, 2), "model.head_channels": 32,
    "model.feature_channels": 32,
}  # fmt: skip
SMALL = NETWORK | {
    "batch_size": 2, "evaluate_batch_size": 2, "summaries": False, "views.crop_size": (32, 64), "views.base_width": 96,
    "snapshots.images": 0,
    "stage1.prototype_min_pixels": 1, "stage1.prototype_init_min_pixels": 1,
} | {f"{stage}.steps": 1 for stage in STAGES} | {
    f"data.{role}.image_size": (64, 96) for role in ("source", "target", "validation")
}  # fmt: skip


def run_main(config: str, settings: dict, *flags: str, anew: bool = False) -> str:
    """Runs main.py with a configuration, on a single device, and returns what it printed."""
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    name, _, form = config.partition(":")
    result = command.run_main(f"--config=configs/{name}.py{form and f':{form}'}", *overrides, *flags, anew=anew)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def write_backbone(path: pathlib.Path, seed: int) -> dict[str, np.ndarray]:
    """A PyTorch file of a small backbone under torchvision's names, with entries of no use here."""
    config = gta5.get_config()
    config.update_from_flattened_dict(NETWORK)
    model = build.network(config.model, 2, extra_norm=False, axis_name=None)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 32, 64, 3), np.float32), train=False))
    generator = np.random.default_rng(seed)
    backbone = {
        kind: {"backbone": jax.tree.map(lambda leaf: generator.uniform(0.01, 0.1, leaf.shape), tree["backbone"])}
        for kind, tree in shapes.items()
    }
    arrays = {name: array.astype(np.float32) for name, array in to_torch(backbone).items()}
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    torch.save(tensors | {"fc.weight": torch.zeros(3, 4), "bn1.num_batches_tracked": torch.tensor(0)}, path)
    return arrays


def check_results(workdir: pathlib.Path, printed: str, space: str) -> dict:
    """Every stage stands in the results and in the table, with finite scores of the label space's classes."""
    results = json.loads((workdir / "results.json").read_text())
    assert [(stage["name"], stage["steps"]) for stage in results["stages"]] == [(name, 1) for name in STAGES]
    for stage in results["stages"]:
        assert list(stage["last"]["iou"]) == list(label_space(space).classes)
        assert 0.0 <= stage["last"]["miou"] <= stage["best"]["miou"] <= 100.0
        assert any(line.startswith(stage["name"]) and f"{stage['last']['miou']:.1f}" in line
                   for line in printed.splitlines()), printed  # fmt: skip
    assert all(np.isfinite(array).all() for array in load(workdir / "stage3").arrays.values())
    return results


@pytest.mark.parametrize(("config", "classes"), [("gta5", 19), pytest.param("synthia", 16, marks=pytest.mark.slow)])
def test_the_full_recipe_runs_from_raw_archives_through_every_stage(config, classes, tmp_path):
    if config == "gta5":
        fixtures.write_gta5(tmp_path / "source", 4, odd_sizes=True)
    else:
        fixtures.write_synthia(tmp_path / "source", 4)
    fixtures.write_cityscapes(tmp_path / "target", train=4, val=2, train_labels=False)
    weights = {kind: str(tmp_path / f"{kind}.pth") for kind in ("imagenet", "self_supervised")}
    arrays = {kind: write_backbone(pathlib.Path(path), seed) for seed, (kind, path) in enumerate(weights.items())}
    settings = SMALL | {f"model.{kind}_weights": path for kind, path in weights.items()} | {
        "data.source.raw_dir": tmp_path / "source", "data.target.raw_dir": tmp_path / "target",
        "data.allow": ("absent_classes",),  # no trains in so few images
    }  # fmt: skip
    workdir = tmp_path / "run"

    printed = run_main(config, settings, f"--workdir={workdir}", anew=True)

    results = check_results(workdir, printed, f"{'cityscapes' if classes == 19 else 'synthia'}{classes}")
    assert ("miou_13" in results["stages"][0]["last"]) == ("mIoU over 13" in printed) == (classes == 16)
    for store in ("warmup/soft_labels_8", "stage1/hard_labels_0.95_flipped", "stage2/hard_labels_0.95_flipped"):
        assert len(list((workdir / store).glob("*.npz"))) == 4, store
    # after one step each backbone is still near the file that it started from, and far from the other
    for stage, kind, other in (("warmup", "imagenet", "self_supervised"), ("stage2", "self_supervised", "imagenet")):
        network = load(workdir / stage).arrays
        for name in ("conv1.weight", "layer2.0.conv2.weight"):
            distances = [np.abs(network[name] - arrays[start][name]).mean() for start in (kind, other)]
            assert distances[0] < 0.1 * distances[1], (stage, name)
        assert ("bn_pretrain.weight" in network) == (kind == "self_supervised")

    # the same command again does nothing; a stage in the released layout is evaluated like the stage itself
    again = run_main(config, settings, f"--workdir={workdir}")
    assert again.startswith("stage") and printed.endswith(again)
    if config == "gta5":
        command.run(
            "-m", "data_prep.convert_weights", f"--input={workdir / 'stage3'}", f"--output={tmp_path / 'stage3.pkl'}",
            "--depths=1,1", "--width=8",
        ).check_returncode()  # fmt: skip
        again = SMALL | {"data.target.raw_dir": tmp_path / "target", "init_from": tmp_path / "stage3.pkl"}
        run_main("gta5_released", again, "--mode=evaluate", f"--workdir={tmp_path / 'evaluation'}")
        scores = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
        last = results["stages"][-1]["last"]
        assert {name: scores[name] for name in ("miou", "iou")} == {name: last[name] for name in ("miou", "iou")}


@pytest.mark.slow  # test_own_folders.py prepares such folders
def test_two_folders_of_ones_own_are_enough(tmp_path):
    """Labels in colour, an unlabelled target; trained without images to score on, and scored on some afterwards."""
    from proda_jax.configs import custom

    colors = np.array([*custom.CLASSES.values(), (0, 0, 0)], np.uint8)
    for i, (name, image, label) in enumerate(fixtures.write_gta5(tmp_path / "drawn", 8)):
        kind = "simulator" if i < 4 else "photos"
        folder = tmp_path / kind / ("images" if kind == "simulator" else "")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{name}.jpg")
        if kind == "simulator":
            (tmp_path / kind / "labels").mkdir(exist_ok=True)
            Image.fromarray(colors[np.minimum(label, 6)]).save(tmp_path / kind / "labels" / f"{name}.png")
    imagenet = tmp_path / "imagenet.pth"
    write_backbone(imagenet, 0)
    values = tuple((color, name) for name, color in custom.CLASSES.items())
    settings = SMALL | {
        "data.source.images": tmp_path / "simulator" / "images",
        "data.source.labels": tmp_path / "simulator" / "labels", "data.source.label_values": values,
        "data.target.images": tmp_path / "photos", "model.imagenet_weights": imagenet,
        "data.allow": ("ignored_pixels",),  # black
    }  # fmt: skip
    workdir = tmp_path / "run"
    printed = run_main("custom", settings | {"stages": STAGES[:1]}, f"--workdir={workdir}")
    assert "no scores" in printed and STAGES[0] in printed
    results = json.loads((workdir / "results.json").read_text())
    assert [stage["last"] for stage in results["stages"]] == [{"step": 1}]
    network = load(workdir / STAGES[0]).arrays
    assert network["layer5.head.1.weight"].shape[0] == len(custom.CLASSES)
    summary = Summary.load(workdir / "data" / "folder" / "source" / "2.0.0")
    assert 0 in summary.splits["source"].values  # black, which means nothing
    assert (workdir / "data" / "folder" / "target" / "2.0.0" / "contact_sheet.png").exists()

    labelled = settings | {
        "data.validation.name": "folder", "data.validation.images": settings["data.source.images"],
        "data.validation.labels": settings["data.source.labels"], "data.validation.label_values": values,
        "init_from": workdir / STAGES[0],
    }  # fmt: skip
    printed = run_main("custom", labelled, "--mode=evaluate", f"--workdir={tmp_path / 'scored'}")
    scores = json.loads((tmp_path / "scored" / "evaluation.json").read_text())
    assert list(scores["iou"]) == list(custom.CLASSES) and f"{scores['miou']:.1f}" in printed


@pytest.mark.slow  # test_hosts.py trains on the same layout, on one host and on two
def test_real_photographs_train_a_network_from_scratch(tmp_path):
    """CamVid's layout, with dusk unlabelled; with fewer stages."""
    fixtures.write_camvid(tmp_path / "CamVid", dusk_train_labels=False)
    stages = ("source", "stage1", "stage2")
    settings = {
        "data.raw_dir": tmp_path / "CamVid", "stages": stages, "stage1.init": "source", "stage1.labels_from": "source",
        "batch_size": 2, "evaluate_batch_size": 1, "model.depths": (1, 1), "model.width": 4,
        "model.head_channels": 32, "model.feature_channels": 32, "views.crop_size": (32, 32), "views.base_width": 64,
    } | {f"data.{role}.image_size": (48, 64) for role in ("source", "target", "validation")} | {
        f"{name}.steps": 1 for name in stages
    }  # fmt: skip
    printed = run_main("camvid:scratch", settings, f"--workdir={tmp_path / 'run'}")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [stage["name"] for stage in results["stages"]] == list(stages)
    assert all(f"{stage['last']['miou']:.1f}" in printed for stage in results["stages"])
    assert list((tmp_path / "run" / "stage1" / "summaries").iterdir())
