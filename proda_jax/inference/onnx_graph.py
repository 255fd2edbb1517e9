"""An ONNX graph as ONNX Runtime has quick kernels for it: biases and rectifiers that it joins to convolutions.

jax2onnx writes a convolution of JAX's order of axes as a transposed one, a bias as Add behind that, and rectifiers as
Max and Min. ONNX Runtime takes the bias of a Conv, and Relu or Clip behind it, into the convolution itself.
"""

import collections
from typing import Any

import numpy as np

CHANNELS_LAST = (0, 2, 3, 1)  # of what a Conv gives


class Graph:
    """A graph, and what its nodes read and give; nodes that nothing reads any more are left to `prune`."""

    def __init__(self, graph: Any):
        """Takes an `onnx.GraphProto`, which it changes."""
        from onnx import numpy_helper

        self._arrays, self._graph = numpy_helper, graph
        self._constants = {held.name: numpy_helper.to_array(held) for held in graph.initializer}
        self._givers = {name: node for node in graph.node for name in node.output}
        self._readers = collections.Counter(name for node in graph.node for name in node.input)
        self._readers.update(output.name for output in graph.output)

    def fuse(self) -> None:
        """Gives convolutions their biases, makes rectifiers of comparisons, and leaves out what nothing reads."""
        for node in self._graph.node:
            if node.op_type == "Add":
                self._bias(node)
            elif node.op_type in ("Max", "Min"):
                self._rectifier(node)
        self._prune()

    def _bias(self, add: Any) -> None:
        """The sum of what a convolution alone gives and of a vector becomes the convolution's own."""
        name, vector = self._parts(add)
        if vector is None or vector.ndim != 4 or vector.size != vector.shape[-1]:
            return
        transposed = self._only(name, "Transpose")
        convolution = transposed and self._only(transposed.input[0], "Conv")
        if convolution is None or len(convolution.input) > 2 or tuple(transposed.attribute[0].ints) != CHANNELS_LAST:
            return
        convolution.input.append(self._hold(convolution.output[0] + "_bias", vector.reshape(-1)))
        self._replace(add, "Identity", [name])

    def _rectifier(self, node: Any) -> None:
        """max(x, 0) is Relu, min(max(x, a), b) is Clip."""
        name, bound = self._parts(node)
        if bound is None or bound.size != 1:
            return
        if node.op_type == "Max" and bound.item() == 0:
            self._replace(node, "Relu", [name])
        elif node.op_type == "Min" and (inner := self._only(name, "Relu")):
            low = self._hold(node.output[0] + "_low", np.zeros((), bound.dtype))
            self._replace(node, "Clip", [inner.input[0], low, self._hold(node.output[0] + "_high", bound.reshape(()))])

    def _parts(self, node: Any) -> tuple[str, np.ndarray | None]:
        """Of a node of two inputs the one that is computed, and the value of the one that is not, or None."""
        first, second = node.input
        if second in self._constants:
            return first, self._constants[second]
        return second, self._constants.get(first)

    def _only(self, name: str, kind: str) -> Any:
        """The node of that kind that gives a value which nothing else reads, or None."""
        node = self._givers.get(name)
        return node if node is not None and node.op_type == kind and self._readers[name] == 1 else None

    def _hold(self, name: str, value: np.ndarray) -> str:
        self._constants[name] = value
        self._graph.initializer.append(self._arrays.from_array(np.ascontiguousarray(value), name))
        return name

    def _replace(self, node: Any, kind: str, inputs: list[str]) -> None:
        self._readers.subtract(node.input)
        self._readers.update(inputs)
        node.op_type = kind
        del node.input[:], node.attribute[:]
        node.input.extend(inputs)

    def _prune(self) -> None:
        """Leaves out nodes and arrays that nothing reads."""
        wanted, kept = {output.name for output in self._graph.output}, []
        for node in reversed(self._graph.node):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
        held = [array for array in self._graph.initializer if array.name in wanted]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(reversed(kept))
        self._graph.initializer.extend(held)
