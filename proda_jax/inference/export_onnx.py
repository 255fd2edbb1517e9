"""Writes a network as ONNX, by jax2onnx, from a program of operations that it converts (`onnx_program.py`)."""

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from proda_jax.inference.onnx_graph import Graph
from proda_jax.inference.onnx_program import plain
from proda_jax.system.files import write_atomically

FILE = "network.onnx"
MOST_DIFFERING = 0.001  # share of pixels whose two best classes may be told apart by the order of sums alone


def write(
    predict: Callable[[Any, jax.Array], jax.Array], variables: Any, size: tuple[int, int], output: epath.Path
) -> None:
    """Writes `FILE`: 'images', uint8 [1, height, width, 3], to 'labels', uint8 [1, height, width].

    Args:
      predict: (variables, images) -> labels.
      variables: of the network; they are in the file.
      size: height and width of the images.
      output: its folder.

    Raises:
      ValueError: the converter cannot convert this network, or not rightly.
    """
    logging.getLogger("jax2onnx").setLevel(logging.ERROR)  # it warns of what it has for other libraries
    import jax2onnx

    held, images = jax.device_get(variables), jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    program = plain(lambda images: predict(held, images), images)
    try:
        made = jax2onnx.to_onnx(program, [images], model_name="proda", input_names=["images"], output_names=["labels"])
    except Exception as error:  # what it does not know ends in errors of many kinds
        raise _refusal(_first_line(error)) from error
    made.graph.ClearField("value_info")  # sizes between operations, of which some are not so
    Graph(made.graph).fuse()
    written = made.SerializeToString()
    check(written, predict, held, size)
    write_atomically(output / FILE, written)


def check(
    written: bytes, predict: Callable[[Any, jax.Array], jax.Array], variables: Any, size: tuple[int, int]
) -> None:
    """Refuses a file whose labels of an image of noise, in ONNX Runtime, are not ours: conversion may fail in silence.

    Raises:
      ValueError: it cannot be run, or gives other labels.
    """
    import onnxruntime

    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype(np.uint8)
    try:
        session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
        found = session.run(["labels"], {"images": image})[0]
    except Exception as error:  # ONNX Runtime has errors of its own for each way to fail
        raise _refusal(f"ONNX Runtime cannot run what it makes of it: {_first_line(error)}") from error
    ours = np.asarray(jax.jit(predict)(variables, image))
    differing = (found != ours).mean() if found.shape == ours.shape else 1.0
    if differing > MOST_DIFFERING:
        raise _refusal(f"what it makes of it gives other labels to {100 * differing:.3g} % of the pixels of noise")


def _refusal(reason: str) -> ValueError:
    return ValueError(f"jax2onnx cannot convert this network ({reason}): --format=savedmodel and stablehlo are there "
                      "for each")  # fmt: skip


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
