"""The segmentation network: a backbone and a head, with the feature that prototypes live in."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.backbones import BACKBONES, DEFAULT, Backbone
from proda_jax.models.convolution import Conv
from proda_jax.models.heads import HEADS, Output
from proda_jax.models.moments import at_least_float32
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.resizing import resize_align_corners

# where a second head sits: nowhere; on the last map but one, as in AdaptSegNet; beside the first, as in CLAN
AUXILIARY = NO_AUXILIARY, LOWER, PARALLEL = ("none", "lower", "parallel")


class InputConvention(nn.Module):
    """Centres and scales images as the network's weights expect it.

    Mean and divisor are variables, not settings, so that they travel with the weights: a student that started from
    weights for RGB / 255 may learn from a teacher whose weights want another input.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        mean = self.variable("batch_stats", "mean", jnp.asarray, self.mean, jnp.float32)
        std = self.variable("batch_stats", "std", jnp.asarray, self.std, jnp.float32)
        return (images - mean.value) / std.value


class SegmentationNetwork(nn.Module):
    """The segmentation network of every stage, teacher and student.

    Attributes:
      classes: number of classes.
      backbone: a row of `backbones.BACKBONES`, or one of other sizes.
      extra_norm: one more batch normalisation after the backbone, for self-supervised weights (Section 5.1).
      head: one of `heads.HEADS`. In pretraining 'projection', where `classes` are the channels of the projections and
        `head_channels` those before them.
      auxiliary_head: where a second head of the same kind sits that helps in training, one of `AUXILIARY`.
      auxiliary_weight: of its class scores beside the main head's in what the network says.
      dilations: of the head's 3x3 branches.
      head_channels: channels of each branch of the released head; `feature_channels` of the feature f.
      dropout: share of feature channels dropped while training.
      input_mean, input_std: subtracted from and dividing RGB in [0, 1] where no weights say otherwise (0 and 1 in the
        released code).
      batch_norm_epsilon: 'added' or 'clamped', see `BatchNorm`.
      axis_name: mapped axis over which batch statistics are shared.
      recompute: blocks of the backbone are computed once more in the backward pass, instead of kept.
      freeze_backbone: no gradient goes through the backbone; it uses running statistics and draws nothing, in training
        too.
      dtype: type that convolutions compute in; parameters stay float32.
    """

    classes: int
    backbone: Backbone = BACKBONES[DEFAULT]
    extra_norm: bool = False
    head: str = "released"
    auxiliary_head: str = NO_AUXILIARY
    auxiliary_weight: float = 0.0
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    head_channels: int = 256
    feature_channels: int = 256
    dropout: float = 0.1
    input_mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    input_std: tuple[float, ...] = (1.0, 1.0, 1.0)
    initialisation: str = "released"
    batch_norm_epsilon: str = "added"
    axis_name: str | None = None
    recompute: bool = False
    freeze_backbone: bool = False
    dtype: jnp.dtype = jnp.float32

    def output_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output grid for an image of this height and width, in pixels."""
        return HEADS[self.head].output_size(self.backbone, image_size)

    @property
    def output_stride(self) -> float:
        """Pixels between two positions of the output grid."""
        return HEADS[self.head].output_stride(self.backbone)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, dropout_keys: jax.Array | None = None) -> Output:
        """Features and class scores of images.

        Args:
          images: RGB in [0, 1], [batch, height, width, 3].
          train: normalise with batch statistics (and update the running ones where 'batch_stats' is mutable);
            otherwise with running statistics.
          dropout_keys: one random key an image, [batch]; None switches dropout off.

        Returns:
          `Output` in float32 (or float64, if `dtype` is) on the output grid, `output_size`.
        """
        conv = partial(Conv, initialisation=self.initialisation, dtype=self.dtype)
        norm = partial(
            BatchNorm,
            use_running_statistics=not train,
            axis_name=self.axis_name,
            epsilon=self.batch_norm_epsilon,
            dtype=self.dtype,
        )
        x = InputConvention(self.input_mean, self.input_std, name="input")(images)
        every, head = self.maps(x.astype(self.dtype), conv, norm, dropout_keys), HEADS[self.head]
        self.sow("intermediates", "encoded", every[-1])  # kept where somebody asks for this collection
        maps = every if head.takes_levels else (self.backbone.features(every),)
        if self.extra_norm:
            maps = *maps[:-1], norm(name="extra_norm")(maps[-1])
        maps = maps if head.takes_levels else maps[0]
        dtype, output = at_least_float32(self.dtype), head.of(self, conv, norm, name="head")(maps, dropout_keys)
        heads = [output.logits.astype(dtype)]
        if self.auxiliary_head != NO_AUXILIARY:
            keys = None if dropout_keys is None else jax.vmap(lambda key: jax.random.fold_in(key, 1))(dropout_keys)
            taken = every[-2] if self.auxiliary_head == LOWER else maps
            auxiliary = head.of(self, conv, norm, name="auxiliary_head")(taken, keys)
            heads.append(auxiliary.logits.astype(dtype))
        return Output(output.features.astype(dtype), self.said(*heads), tuple(heads))

    def said(self, main: jax.Array, auxiliary: jax.Array | None = None) -> jax.Array:
        """Class scores of the network from those of its heads, [batch, h, w, classes]: main + weight * auxiliary."""
        if auxiliary is None or not self.auxiliary_weight:
            return main
        return main + self.auxiliary_weight * resize_align_corners(auxiliary, main.shape[1:3])

    def maps(self, x: jax.Array, conv: Callable, norm: Callable, keys: jax.Array | None) -> tuple[jax.Array, ...]:
        """What the backbone gives, a map of each level, of images as it expects them."""
        if self.freeze_backbone:
            norm, keys = partial(norm, use_running_statistics=True), None
        network = self.backbone.module(conv, norm, recompute=self.recompute, name="backbone")
        maps = network(x, keys) if self.backbone.draws else network(x)
        maps = maps if isinstance(maps, tuple) else (maps,)
        return jax.lax.stop_gradient(maps) if self.freeze_backbone else maps
