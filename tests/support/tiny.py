"""A configuration whose steps compile and run in seconds, and data in memory to go with it."""

import functools

import jax
import ml_collections
import numpy as np

from proda_jax.adaptation.stages import build, kinds
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.data.memory import MemorySource
from proda_jax.models.deeplab import SegmentationNetwork

IMAGE, CROP, CLASSES = (48, 96), (32, 64), 11


def tiny_config() -> ml_collections.ConfigDict:
    """Settings without stages; networks of two blocks, crops of 32 x 64 pixels, CamVid's 11 classes."""
    c = base.get_config()
    c.task, c.batch_size, c.summaries = "tiny", 2, False
    c.log_every, c.evaluate_every, c.evaluate_batch_size = 1, 2, 2
    c.data.label_space = "camvid11"
    for role in ("source", "target", "validation"):
        c.data[role].name, c.data[role].image_size = "camvid", IMAGE
    c.model.depths, c.model.width = (1, 1), 8
    c.model.dilations, c.model.head_channels, c.model.feature_channels = (2,), 32, 32
    c.model.initialisation = "he"
    c.views.crop_size, c.views.base_width, c.views.scale = CROP, 96, (0.75, 1.25)
    return c


def tiny_stage(stage: ml_collections.ConfigDict, **settings) -> ml_collections.ConfigDict:
    """A stage with rates for a network from scratch, and minima that tiny images reach."""
    stage.backbone_rate = stage.head_rate = 0.01
    stage.update({name: value for name, value in settings.items() if name in stage})
    if kinds.of(stage).prototypes(stage):
        stage.prototype_min_pixels = stage.prototype_init_min_pixels = 1
        stage.prototype_momentum = 0.9
    if kinds.of(stage).momentum_encoder(stage):
        stage.ema_momentum = 0.9
    if stage.kind == "distill":
        stage.extra_norm = False
    if stage.kind == "warmup":
        stage.discriminator_channels = (8, 16, 16, 32)
    stage.update(settings)
    return stage


def blocks(records: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of coloured blocks, uint8 [records, *IMAGE, 3], and their classes, uint8 [records, *IMAGE].

    Each class has a colour of its own below noise; class 10 never occurs; the left edge is ignored.
    """
    generator = np.random.default_rng(seed)
    colours = np.random.default_rng(0).integers(0, 256, (CLASSES, 3))
    label = generator.integers(0, CLASSES - 1, (records, 6, 8)).repeat(8, axis=1).repeat(12, axis=2)
    image = np.clip(colours[label] + generator.normal(0, 20, (*label.shape, 3)), 0, 255)
    label[:, :, :4] = IGNORE
    return image.astype(np.uint8), label.astype(np.uint8)


def block_source(records: int, seed: int, *, labelled: bool = True) -> MemorySource:
    image, label = blocks(records, seed)
    return MemorySource(image, label if labelled else None)


def tiny_model(
    config: ml_collections.ConfigDict, axis_name: str | None = None, *, extra_norm: bool = False
) -> SegmentationNetwork:
    return build.network(config.model, CLASSES, extra_norm=extra_norm, axis_name=axis_name)


@functools.cache
def tiny_variables(model: SegmentationNetwork, seed: int) -> dict:
    """Variables of a tiny network, NumPy arrays in its compute type; no two layers are alike."""
    example = np.zeros((1, *CROP, 3), np.float32)
    shapes = jax.eval_shape(lambda: model.clone(axis_name=None).init(jax.random.key(0), example, train=False))
    generator = np.random.default_rng(seed)

    def fill(path: tuple, like: jax.ShapeDtypeStruct) -> np.ndarray:
        leaf, values = path[-1].key, generator.standard_normal(like.shape)
        if leaf == "kernel":
            values *= np.sqrt(2 / np.prod(like.shape[:-1]))
        elif leaf in ("scale", "var", "std"):
            values = 1 + 0.1 * np.tanh(values)
        else:
            values *= 0.1
        return values.astype(model.dtype)

    return jax.tree.map_with_path(fill, shapes)
