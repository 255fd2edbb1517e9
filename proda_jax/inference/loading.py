"""Finds a trained network where a run left it, and opens it for prediction: `load`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from etils import epath
from jax.sharding import Mesh

from proda_jax.data.label_spaces import label_space
from proda_jax.inference.segmenter import Segmenter
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.ensemble import Ensemble
from proda_jax.models.weights import pretrained_folder
from proda_jax.run import provenance, ranges, settings
from proda_jax.run.card import Card
from proda_jax.run.networks import Networks
from proda_jax.run.workdir import Workdir
from proda_jax.system import checkpoints, devices
from proda_jax.system.files import parse_json
from proda_jax.system.paths import expand_settings, expanded

EXPECTED = (
    "the workdir of a run, a stage's folder or a checkpoint, or a pretrained network (a folder with "
    f"{pretrained_folder.WEIGHTS} and {pretrained_folder.CARD})"
)


def load(
    path: epath.PathLike | None = None,
    *,
    stage: str | None = None,
    checkpoint: str | None = None,
    config: ml_collections.ConfigDict | None = None,
    resize: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: int | None = None,
    batch_size: int | None = 1,
    value_range: Sequence[float] | None = None,
    engine: str = "xla",
    devices_used: int | None = 1,
) -> Segmenter:
    """Opens a trained network, which labels files, Pillow images, and arrays, uint8 [height, width, 3], RGB.

    Args:
      path: a run's workdir, of which the last complete stage is taken; the folder of a stage; its 'checkpoints' folder;
        the folder of one checkpoint; or one that `Segmenter.save_pretrained` wrote. None: the file of weights in
        `config.init_from`.
      stage: another stage of the workdir; of several, 'minent+advent', the mean of their class scores is taken.
      checkpoint: 'last' (default) or 'best' of the stage.
      config: configuration that a network without a card was trained with: one in a file of weights, or in a checkpoint
        of an older version. One with a card says itself what it is, and is refused beside another configuration.
      resize, scales, flip, window, batch_size, value_range, engine: see `Segmenter`.
      devices_used: number of devices over which batches are split; None: all of them.

    Raises:
      ValueError: there is no such network, or it cannot be read.
    """
    mesh = devices.make_mesh(devices_used)
    if config is not None:
        expand_settings(config)
        settings.check_network(config)
    path = expanded(path)
    if path is not None and pretrained_folder.is_pretrained(path):
        if stage or checkpoint:
            raise ValueError(f"{path} is one network already: leave out the stage, and which checkpoint")
        card, model, variables = _pretrained(path, mesh)
        origin = str(path)
        card.check_against(config, origin)
    elif path is not None:
        parts = stage.split("+") if stage else [None]
        found = [_in_checkpoint(find(path, part, checkpoint), config, mesh) for part in parts]
        card, model, variables, origin = found[0] if len(found) == 1 else _average(found)
    else:
        if config is None or config.init_from is None:
            raise ValueError("there is no network to load: name the workdir of a run, or a file as config.init_from")
        card, model, variables = _in_file(config, mesh)
        origin = config.init_from
    return Segmenter(
        model, variables, card, mesh, origin=origin,
        resize=resize, scales=scales, flip=flip, window=window, batch_size=batch_size, value_range=value_range,
        engine=engine,
    )  # fmt: skip


def find(path: epath.PathLike, stage: str | None = None, which: str | None = None) -> epath.Path:
    """The folder of the checkpoint that `path`, `stage` and `which` of `load` mean.

    Raises:
      ValueError: there is none; with what there is.
    """
    path = epath.Path(expanded(path))
    if not path.is_dir():
        raise ValueError(f"{path}: expected {EXPECTED}; there is no such folder")
    if (path / "network").is_dir():
        if stage or which:
            raise ValueError(f"{path} is one checkpoint already: leave out the stage, and which checkpoint")
        return path
    if stage is None and (path / "checkpoints").is_dir():
        path = path / "checkpoints"
    elif not _steps(path):
        path = path / (stage or _last_complete(path)) / "checkpoints"
    elif stage:
        raise ValueError(f"{path} holds the checkpoints of one stage: leave out the stage, {stage!r}")
    if not _steps(path):
        there = ", ".join(_stages(path.parents[1])) or "none"
        raise ValueError(f"{path}: expected checkpoints of a stage, found none. Stages there with checkpoints: {there}")
    opened = checkpoints.Checkpoints(path, writable=False)
    step = opened.step(which or "last")
    opened.close()
    if step is None:
        raise ValueError(f"{path} has no best checkpoint, as none was scored: use --checkpoint=last")
    return path / str(step)


def card_of(folder: epath.Path, config: ml_collections.ConfigDict | None) -> Card:
    """The card of a checkpoint, or, in one without, what the configuration says of its network.

    Raises:
      ValueError: there is neither.
    """
    held = checkpoints.card_in(folder)
    if held is not None:
        card = Card.from_json(held, folder)
        card.check_against(config, folder)
        return card
    if config is None:
        raise ValueError(
            f"{folder} was written by an older version, and does not say what network it holds: name the "
            "configuration that it was trained with, such as --config=configs/gta5.py, and the settings beside it"
        )
    return Card.of(config, folder.parent.parent.name, extra_norm=checkpoints.has_extra_norm(folder))


def _in_checkpoint(
    folder: epath.Path, config: ml_collections.ConfigDict | None, mesh: Mesh
) -> tuple[Card, SegmentationNetwork, Any, str]:
    """The network of a checkpoint, and where it is from."""
    card = card_of(folder, config)
    model = card.network()
    return card, model, checkpoints.network_in(folder, _abstract_variables(model, mesh)), str(folder)


def _average(found: Sequence[tuple[Card, SegmentationNetwork, Any, str]]) -> tuple[Card, Ensemble, tuple, str]:
    """Several networks as one, with the card of the first.

    Raises:
      ValueError: they do not have the same classes.
    """
    cards, models, variables, origins = zip(*found, strict=True)
    for card, origin in zip(cards, origins, strict=True):
        if card.classes != cards[0].classes:
            raise ValueError(f"{origin} has other classes than {origins[0]}: name stages of one task")
    card = dataclasses.replace(cards[0], stage="+".join(card.stage for card in cards))
    return card, Ensemble(models), variables, " + ".join(origins)


def _pretrained(folder: epath.PathLike, mesh: Mesh) -> tuple[Card, SegmentationNetwork, Any]:
    """The network in a folder that `Segmenter.save_pretrained` wrote."""
    held, arrays = pretrained_folder.read(folder)
    card, variables = Card.from_json(held, folder), pretrained_folder.as_variables(arrays)
    model = card.network()
    checkpoints.check_shapes(variables, _abstract_variables(model, mesh), str(folder))
    return card, model, jax.device_put(variables, devices.replicated(mesh))


def _in_file(config: ml_collections.ConfigDict, mesh: Mesh) -> tuple[Card, SegmentationNetwork, Any]:
    """The network in `config.init_from`."""
    ranges.check_file("init_from", config.init_from)
    space = label_space(config.data.label_space, config.data.classes, config.data.colors)
    file = epath.Path(config.init_from)
    model, variables = Networks(config, Workdir(file.parent), mesh, space).in_file(config.init_from)
    return Card.of(config, file.name, extra_norm=model.extra_norm), model.clone(axis_name=None), variables


def _abstract_variables(model: SegmentationNetwork, mesh: Mesh) -> Any:
    """Shapes and placement (replicated) of a network's variables."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    place = devices.replicated(mesh)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes)


def _steps(folder: epath.Path) -> list[int]:
    """Steps of the checkpoints in a folder."""
    if not folder.is_dir():
        return []
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit() and (path / "network").is_dir()]


def _stages(workdir: epath.Path) -> list[str]:
    """Stages in a workdir that have checkpoints."""
    return sorted(path.name for path in workdir.iterdir() if _steps(path / "checkpoints")) if workdir.is_dir() else []


def _last_complete(workdir: epath.Path) -> str:
    """The last complete stage of a workdir that still has checkpoints; an oracle only where there is no other.

    An oracle has learnt from the labels of the target: it says how much could be gained, and is not what was asked for.

    Raises:
      ValueError: there is none.
    """
    there, results = _stages(workdir), workdir / "results.json"
    if not there:
        raise ValueError(f"{workdir}: expected {EXPECTED}; it holds none")
    try:
        complete = [entry["name"] for entry in parse_json(results.read_text())["stages"]] if results.exists() else []
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{results} is damaged: name a stage with --stage, one of {', '.join(there)}") from None
    if not (complete := [name for name in complete if name in there]):
        raise ValueError(f"{workdir} has no complete stage yet: name one that is not as --stage, of {', '.join(there)}")
    return next((name for name in reversed(complete) if not _is_oracle(workdir / name)), complete[-1])


def _is_oracle(folder: epath.Path) -> bool:
    """Whether a stage has learnt from the target's labels, as far as its settings.json says so."""
    try:
        return bool(parse_json((folder / provenance.NAME).read_text()).get(f"{folder.name}.target_labels"))
    except (OSError, ValueError, AttributeError):  # none, or a damaged one: what trains says so
        return False
