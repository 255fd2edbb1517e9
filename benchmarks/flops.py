"""The least arithmetic that a program needs, counted from the shapes of its convolutions."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from benchmarks.programs import WHOLE_IMAGES, Programs
from proda_jax.adaptation.stages import kinds
from proda_jax.models.convolution import Conv

# dense bfloat16 TFLOP/s of one device, from the makers' data sheets
PEAKS = {
    "NVIDIA H200": 989, "NVIDIA H100 80GB HBM3": 989, "NVIDIA A100-SXM4-40GB": 312, "NVIDIA A100-SXM4-80GB": 312,
    "TPU v4": 275, "TPU v5 lite": 197, "TPU v5": 459, "TPU v6 lite": 918,
}  # fmt: skip


def taps_inside(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Pairs of an output position and a kernel tap that lies inside the image, along one axis."""
    pad = dilation * (kernel // 2)
    starts = range(0, size, stride) if kernel == 1 else range(-pad, size + pad - dilation * (kernel - 1), stride)
    return sum(0 <= start + tap * dilation < size for start in starts for tap in range(kernel))


def convolutions(run: Callable[[], Any]) -> dict[tuple[str, ...], int]:
    """Multiply-adds of each convolution that `run` applies, by its path; nothing is computed."""
    found: dict[tuple[str, ...], int] = {}

    def count(method: Callable, arguments: tuple, keywords: dict, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if isinstance(module, Conv) and context.method_name == "__call__":
            batch, height, width, channels = arguments[0].shape
            rows, columns = (taps_inside(n, module.kernel, module.stride, module.dilation) for n in (height, width))
            found[module.path] = batch * rows * columns * channels * module.channels
        return method(*arguments, **keywords)

    with nn.intercept_methods(count):
        jax.eval_shape(run)
    return found


class Minimum:
    """FLOPs (two for a multiply-add) that each program of a configuration cannot do without.

    Only convolutions count: they are nearly all of it. A backward pass costs a forward pass for the gradient of the
    kernels and one for that of the inputs, which the first convolution's images do not need.
    """

    def __init__(self, config: ml_collections.ConfigDict, programs: Programs):
        self.config, self.programs = config, programs

    def counts(self) -> bool:
        """Whether convolutions are nearly all that the network does: in a transformer products are."""
        return self.first() in self.layers(tuple(self.config.views.crop_size))

    def first(self) -> tuple[str, ...]:
        """Path of the layer that sees the images."""
        return "backbone", self.programs.model().backbone.first_convolution

    def layers(self, size: tuple[int, int]) -> dict[tuple[str, ...], int]:
        """Multiply-adds of each convolution of a pass on one image of this size, by its path."""
        model = self.programs.model().clone(axis_name=None)
        shapes = jax.eval_shape(lambda: self.programs.variables(model, jax.random.key(0)))
        return convolutions(lambda: model.apply(zeros(shapes), jnp.zeros((1, *size, 3)), train=False))

    def forward(self, size: tuple[int, int], *, scores: bool = True) -> tuple[int, int]:
        """FLOPs of a pass on one image of this size, in all and of its first convolution.

        `scores`: whether more than the features is asked for.
        """
        found = self.layers(size)
        if not scores:
            found = {path: macs for path, macs in found.items() if path[-1] != "classifier"}
        return 2 * sum(found.values()), 2 * found[self.first()]

    def trained(self, *, scores: bool = True) -> int:
        """FLOPs of a pass on one crop, forward and backward."""
        everything, first = self.forward(tuple(self.config.views.crop_size), scores=scores)
        return 3 * everything - first

    def discriminator(self, name: str) -> int:
        """FLOPs of the discriminator for one pair of crops: three passes, of which two train it."""
        critic = self.programs.setup(name).discriminator
        probabilities = jnp.zeros((1, *self.config.views.crop_size, len(self.programs.space)))
        shapes = jax.eval_shape(lambda: critic.init(jax.random.key(0), probabilities))
        found = convolutions(lambda: critic.apply(zeros(shapes), probabilities))
        everything, first = 2 * sum(found.values()), 2 * found[("conv1",)]
        return 2 * everything + 2 * (3 * everything - first)

    def of(self, name: str) -> int | None:
        """FLOPs of a program for one image of each domain, or one whole image; None: its network is a transformer.

        Raises:
          ValueError: it is a step of a stage whose network labels nothing.
        """
        if not self.counts():
            return None
        if name in WHOLE_IMAGES:
            return self.forward(tuple(self.config.data.validation.image_size))[0]
        stage, kind = self.config[name], kinds.of(self.config[name])
        if not kind.segments:
            raise ValueError(f"{name}: what a step takes is not counted where several views of an image are compared")
        total = self.trained() * (2 if kind.target(stage) else 1)
        if kind.discriminator(stage):
            total += self.discriminator(name)
        if kind.teacher and stage.distillation_weight:
            total += self.forward(tuple(self.config.views.crop_size))[0]
        if stage.get("consistency_weight"):
            total += self.trained(scores=False)
        if kind.momentum_encoder(stage):
            seen = self.config.data.target.image_size if stage.ema_view == "image" else self.config.views.crop_size
            total += self.forward(tuple(seen))[0]
        return total


def zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
