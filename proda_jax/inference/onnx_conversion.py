"""From a function of images to ONNX Runtime: conversion by jax2onnx, of what `onnx_program` and `onnx_graph` make."""

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from proda_jax.data.decode import cores
from proda_jax.inference.onnx_graph import Graph
from proda_jax.inference.onnx_program import plain
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.system.progress import say


class NotConverted(ValueError):
    """A network that jax2onnx cannot convert, or not rightly: conversion may fail in silence."""

    def __init__(self, reason: str, instead: str):
        """`reason`: why not; `instead`: what there is for it."""
        super().__init__(f"jax2onnx cannot convert this network ({reason}): {instead}")


def convert(
    function: Callable[[Any, jax.Array], jax.Array], variables: Any, shape: tuple[int, ...], output: str, instead: str
) -> bytes:
    """An ONNX file of 'images', uint8 [batch, height, width, 3], to `output`.

    Args:
      function: (variables, images) -> what is given.
      variables: of the network; they are in the file.
      shape: of the images.
      output: what its result is called.
      instead: what there is for a network that cannot be converted, in words.

    Raises:
      NotConverted: the converter does not know something in it.
    """
    logging.getLogger("jax2onnx").setLevel(logging.ERROR)  # it warns of what it has for other libraries
    import jax2onnx

    held, images = jax.device_get(variables), jax.ShapeDtypeStruct(shape, jnp.uint8)
    program = plain(lambda images: function(held, images), images)
    try:
        made = jax2onnx.to_onnx(program, [images], model_name="proda", input_names=["images"], output_names=[output])
    except Exception as error:  # what it does not know ends in errors of many kinds
        raise NotConverted(_first_line(error), instead) from error
    made.graph.ClearField("value_info")  # sizes between operations, of which some are not so
    Graph(made.graph).fuse()
    return made.SerializeToString()


def runner(written: bytes, instead: str) -> Callable[[Any], Any]:
    """images -> what an ONNX file gives for them, by ONNX Runtime on the cores that this process may use.

    Raises:
      NotConverted: it cannot open the file; what is returned, that it cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()

    def tried(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return work(*arguments, **options)
        except Exception as error:  # it has errors of its own for each way to fail
            raise NotConverted(f"ONNX Runtime cannot run what it makes of it: {_first_line(error)}", instead) from error

    session = tried(onnxruntime.InferenceSession, written, options, providers=["CPUExecutionProvider"])
    return lambda images: tried(session.run, None, {"images": images})[0]


def in_float32(model: SegmentationNetwork) -> SegmentationNetwork:
    """The network as ONNX Runtime can compute it, which is said where it is another."""
    if model.dtype == jnp.float32:
        return model
    say(f"ONNX Runtime has no convolution in {jnp.dtype(model.dtype).name}, so it computes in float32, and single "
        "pixels may get another label than by XLA")  # fmt: skip
    return model.clone(dtype=jnp.float32)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
