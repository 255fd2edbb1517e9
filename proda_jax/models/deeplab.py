"""DeepLabv2: a ResNet at output stride 8 and a head of dilated convolutions, with the feature that prototypes use."""

from collections.abc import Callable
from functools import partial

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import Conv
from proda_jax.models.moments import at_least_float32
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.resnet import RESNET101, ResNet

GROUP_NORM_GROUPS = 32
GROUP_NORM_EPSILON = 1e-5
SQUEEZE_RATIO = 16
HEADS = ("released", "deeplab")  # of a segmentation network
PROJECTION = "projection"


@flax.struct.dataclass
class Output:
    """What the network says of each position of its output grid.

    Attributes:
      features: f of the paper, [batch, h, w, feature channels].
      logits: class scores before the softmax, [batch, h, w, classes].
    """

    features: jax.Array
    logits: jax.Array


class ReleasedHead(nn.Module):
    """The released head: five parallel branches, squeeze and excitation, and a normalised feature of 256 channels."""

    classes: int
    dilations: tuple[int, ...]
    channels: int
    feature_channels: int
    dropout: float
    conv: Callable[..., Conv]
    initialisation: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None) -> Output:
        conv = partial(self.conv, use_bias=True)
        branches = [conv(self.channels, name="branch0_conv")(x)]
        for i, dilation in enumerate(self.dilations, start=1):
            branches.append(conv(self.channels, kernel=3, dilation=dilation, name=f"branch{i}_conv")(x))
        branches = [nn.relu(self.group_norm(f"branch{i}_norm")(b)) for i, b in enumerate(branches)]
        x = self.squeeze_excite(jnp.concatenate(branches, axis=-1))
        x = self.group_norm("bottleneck_norm")(conv(self.feature_channels, kernel=3, name="bottleneck_conv")(x))
        features = channel_dropout(x, dropout_keys, self.dropout)
        return Output(features, self.conv(self.classes, name="classifier")(features))

    def group_norm(self, name: str) -> nn.GroupNorm:
        return nn.GroupNorm(
            GROUP_NORM_GROUPS, epsilon=GROUP_NORM_EPSILON, dtype=self.dtype, use_fast_variance=False, name=name
        )

    def squeeze_excite(self, x: jax.Array) -> jax.Array:
        initialisation = "pytorch" if self.initialisation == "released" else self.initialisation
        conv = partial(self.conv, use_bias=True, initialisation=initialisation)
        gate = x.mean((1, 2), keepdims=True)
        gate = nn.relu(conv(x.shape[-1] // SQUEEZE_RATIO, name="squeeze")(gate))
        return x * nn.sigmoid(conv(x.shape[-1], name="excite")(gate))


class DeepLabHead(nn.Module):
    """The plain DeepLabv2 head: the sum of dilated 3x3 convolutions straight to class scores.

    Its feature is the backbone's own. AdaptSegNet's code returns early and sums only the first two branches.
    """

    classes: int
    dilations: tuple[int, ...]
    conv: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None) -> Output:
        logits = sum(
            self.conv(self.classes, kernel=3, dilation=dilation, use_bias=True, name=f"branch{i}_conv")(x)
            for i, dilation in enumerate(self.dilations)
        )
        return Output(x, logits)


class ProjectionHead(nn.Module):
    """SimCLR's head, which is thrown away after pretraining: mean over the image, then two layers (Chen et al., 2020).

    Its class scores are the projections z, its feature what they are computed from, both of one position an image.
    """

    hidden: int
    channels: int
    conv: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None) -> Output:
        x = x.mean((1, 2), keepdims=True)
        hidden = nn.relu(self.conv(self.hidden, use_bias=True, name="projection1")(x))
        return Output(x, self.conv(self.channels, use_bias=True, name="projection2")(hidden))


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


class DeepLab(nn.Module):
    """The segmentation network of every stage, teacher and student.

    Attributes:
      classes: number of classes.
      depths: bottleneck blocks of each of the four stages; `width`: channels of the stem (64 in ResNet-101).
      extra_norm: one more batch normalisation after the backbone, for self-supervised weights (Section 5.1).
      head: 'released' or 'deeplab'; `dilations` of its 3x3 branches. 'projection' in pretraining, where `classes` are
        the channels of the projections and `head_channels` those before them.
      head_channels: channels of each branch of the released head; `feature_channels` of the feature f.
      dropout: share of feature channels dropped while training.
      input_mean, input_std: subtracted from and dividing RGB in [0, 1] where no weights say otherwise (0 and 1 in the
        released code).
      batch_norm_epsilon: 'added' or 'clamped', see `BatchNorm`.
      axis_name: mapped axis over which batch statistics are shared.
      recompute: blocks of the backbone are computed once more in the backward pass, instead of kept.
      dtype: type that convolutions compute in; parameters stay float32.
    """

    classes: int
    depths: tuple[int, ...] = RESNET101
    width: int = 64
    extra_norm: bool = False
    head: str = "released"
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
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, dropout_keys: jax.Array | None = None) -> Output:
        """Features and class scores of images.

        Args:
          images: RGB in [0, 1], [batch, height, width, 3].
          train: normalise with batch statistics (and update the running ones where 'batch_stats' is mutable);
            otherwise with running statistics.
          dropout_keys: one random key an image, [batch]; None switches dropout off.

        Returns:
          `Output` in float32 (or float64, if `dtype` is) on the output grid of `resnet.output_size`.
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
        x = ResNet(self.depths, self.width, conv, norm, self.recompute, name="backbone")(x.astype(self.dtype))
        if self.extra_norm:
            x = norm(name="extra_norm")(x)
        if self.head == "deeplab":
            head = DeepLabHead(self.classes, self.dilations, conv, name="head")
        elif self.head == PROJECTION:
            head = ProjectionHead(self.head_channels, self.classes, conv, name="head")
        else:
            head = ReleasedHead(
                self.classes,
                self.dilations,
                self.head_channels,
                self.feature_channels,
                self.dropout,
                conv,
                self.initialisation,
                self.dtype,
                name="head",
            )
        output = head(x, dropout_keys)
        dtype = at_least_float32(self.dtype)
        return Output(output.features.astype(dtype), output.logits.astype(dtype))


def channel_dropout(x: jax.Array, keys: jax.Array | None, rate: float) -> jax.Array:
    """Zeroes whole channels of each image and scales up the rest.

    Args:
      x: [batch, h, w, channels].
      keys: one key an image [batch], so that the mask follows the example and not its place in the batch; or None.
      rate: probability that a channel is dropped.
    """
    if keys is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, (x.shape[-1],)))(keys)
    return x * (keep / (1.0 - rate)).astype(x.dtype)[:, None, None, :]
