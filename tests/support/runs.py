"""A run's folder without the run: checkpoints of tiny networks, as training leaves them."""

import contextlib
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from tiny import blocks, tiny_config, tiny_model, tiny_variables

from proda_jax.adaptation.state import TrainState
from proda_jax.inference.segmenter import Segmenter
from proda_jax.run import evaluate
from proda_jax.run.card import Card
from proda_jax.system import devices
from proda_jax.system.checkpoints import Checkpoints

IMAGES = blocks(3, 7)[0]
STAGES = ("source", "stage1")  # complete; 'stage2' is not
BEST, LAST = 2, 4  # steps
SEEDS = {("source", BEST): 0, ("source", LAST): 1, ("stage1", BEST): 2, ("stage1", LAST): 3, ("stage2", LAST): 4}
ODD_NAMES = ('a|b, "c"', "straße & 🛣", "<b>*sky*</b>\n`", "{x: - y}")


def write_run(folder: pathlib.Path, *, cards: bool = True) -> pathlib.Path:
    """A workdir with the networks of `SEEDS`; without cards it is one of an older version."""
    config = tiny_config()
    card = Card.of(config, "source", extra_norm=False).as_json()
    for (stage, step), seed in SEEDS.items():
        variables = jax.tree.map(jnp.asarray, variables_of(stage, step, seed))
        state = TrainState(jnp.int32(step), jax.random.key(0), **variables, opt_state=())
        with contextlib.closing(Checkpoints(folder / stage / "checkpoints")) as checkpoints:
            checkpoints.save(state, 30.0 if step == BEST else 20.0, card | {"stage": stage} if cards else None)
    results = {"task": "tiny", "seed": 0, "stages": [{"name": name, "steps": LAST} for name in STAGES]}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def variables_of(stage: str, step: int, seed: int | None = None) -> dict:
    """Variables of the network in a checkpoint of `write_run`."""
    return tiny_variables(tiny_model(tiny_config()), SEEDS[stage, step] if seed is None else seed)


@functools.partial(jax.jit, static_argnums=0)
def _evaluated(network, variables, images):
    return evaluate.predict(network, variables, images)


def labels_of(stage: str, step: int) -> np.ndarray:
    """What evaluation says of `IMAGES` with the network in a checkpoint of `write_run`."""
    return np.asarray(_evaluated(tiny_model(tiny_config()), variables_of(stage, step), IMAGES))


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Noise, uint8 [*size, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def segmenter(extra_norm: bool = False, devices_used: int = 1, **settings) -> Segmenter:
    """A small network of random variables, as float32 as those of training."""
    config = tiny_config()
    config.update_from_flattened_dict(settings)
    card = Card.of(config, "stage2", extra_norm=extra_norm)
    model, mesh = card.network(), devices.make_mesh(devices_used)
    variables = tiny_variables(model.clone(dtype=np.dtype("float32")), 0)
    return Segmenter(model, devices.replicate(variables, mesh), card, mesh)
