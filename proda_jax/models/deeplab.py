"""The segmentation network: a backbone and a head, with the feature that prototypes live in."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models import two_resolutions
from proda_jax.models.backbones import BACKBONES, DEFAULT, Backbone
from proda_jax.models.contrast_projection import MODULE as PROJECTION
from proda_jax.models.contrast_projection import ContrastProjection
from proda_jax.models.convolution import Conv
from proda_jax.models.heads import HEADS, Output
from proda_jax.models.interpolation import resize
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.precision import at_least_float32
from proda_jax.models.resizing import resize_align_corners
from proda_jax.models.scale_attention import MODULE, ScaleAttention

# where a second head sits: nowhere; on the last map but one, as in AdaptSegNet; beside the first, as in CLAN
AUXILIARY = NO_AUXILIARY, LOWER, PARALLEL = ("none", "lower", "parallel")
FOUNDATION = "foundation"  # name of the module that makes features like another network's
# what a backbone gives of images, what the head takes of that, and what the head says
Seen = tuple[tuple[jax.Array, ...], tuple[jax.Array, ...], Output]


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
      auxiliary_weight: of its logits beside the main head's in the network's.
      detail_size: height and width, in pixels, of the windows that are seen at full size, beside the image at half its
        size (HRDA); () for one resolution.
      projection_channels: of a projection of the backbone's features that helps in training (SePiCo); 0 for none.
      foundation_channels: of a 1x1 convolution of its last map to features of another network, likewise (DFUDA).
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
    detail_size: tuple[int, ...] = ()
    projection_channels: int = 0
    foundation_channels: int = 0
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

    @property
    def detail_unit(self) -> int:
        """Pixels of which windows' places and sizes are multiples, so that grids of image and context agree."""
        stride = self.output_stride
        for step in range(1, 65):
            sizes = [self.output_size((step * n, step * n))[0] for n in range(1, 5)]
            if all(b - a == step / stride for a, b in zip(sizes, sizes[1:], strict=False)):
                return 2 * step
        raise ValueError(f"head {self.head!r} has no regular grid")

    def context_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what the backbone sees of a whole crop: half of them, with two resolutions."""
        return tuple(size // 2 for size in image_size) if self.detail_size else image_size

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool,
        dropout_keys: jax.Array | None = None,
        places: jax.Array | None = None,
    ) -> Output:
        """Features and logits of images.

        Args:
          images: RGB in [0, 1], [batch, height, width, 3].
          train: normalise with batch statistics (and update the running ones where 'batch_stats' is mutable);
            otherwise with running statistics.
          dropout_keys: one random key an image, [batch]; None switches dropout off.
          places: with two resolutions, top and left of the one window of each image that is seen at full size,
            multiples of `detail_unit`, int32 [batch, 2]; None: windows all over the image, without dropout.

        Returns:
          `Output` in float32 (or float64, if `dtype` is) on the output grid, `output_size`. With two resolutions its
          features, and what is kept as 'encoded', are the context's.
        """
        conv = partial(Conv, initialisation=self.initialisation, dtype=self.dtype)
        norm = partial(
            BatchNorm,
            use_running_statistics=not train,
            axis_name=self.axis_name,
            epsilon=self.batch_norm_epsilon,
            dtype=self.dtype,
        )
        see = self.below_auxiliary(conv, norm)
        if self.detail_size:
            attention = ScaleAttention(self.classes, self.head_channels, self.dropout, conv, norm, name=MODULE)
            return self.at_two_resolutions(see, attention, images, dropout_keys, places)
        every, taken, output = see(images, dropout_keys)
        self.sow("intermediates", "encoded", every[-1])  # kept where somebody asks for this collection
        heads = [output.logits]
        if self.auxiliary_head != NO_AUXILIARY:
            keys, head = folded(dropout_keys), HEADS[self.head]
            taken = taken if head.takes_levels else taken[0]
            taken = every[-2] if self.auxiliary_head == LOWER else taken
            auxiliary = head.of(self, conv, norm, name="auxiliary_head")(taken, keys)
            heads.append(auxiliary.logits.astype(output.logits.dtype))
        return output.replace(logits=self.combined(*heads), heads=tuple(heads))

    def below_auxiliary(self, conv: Callable, norm: Callable) -> Callable[[jax.Array, jax.Array | None], Seen]:
        """(images, dropout keys) -> what the layers before a second head make of them; may be called repeatedly."""
        convention = InputConvention(self.input_mean, self.input_std, name="input")
        own = partial(norm, use_running_statistics=True) if self.freeze_backbone else norm
        network = self.backbone.module(conv, own, recompute=self.recompute, name="backbone")
        extra_norm = norm(name="extra_norm") if self.extra_norm else None
        project = None
        if self.projection_channels:
            project = ContrastProjection(self.projection_channels, conv, norm, name=PROJECTION)
        liken = None
        if self.foundation_channels:
            liken = conv(self.foundation_channels, use_bias=True, name=FOUNDATION)
        kind, dtype = HEADS[self.head], at_least_float32(self.dtype)
        head = kind.of(self, conv, norm, name="head")

        def see(images: jax.Array, keys: jax.Array | None) -> Seen:
            x = convention(images).astype(self.dtype)
            drawn = (None if self.freeze_backbone else keys,) if self.backbone.draws else ()
            every = network(x, *drawn)
            every = every if isinstance(every, tuple) else (every,)
            every = jax.lax.stop_gradient(every) if self.freeze_backbone else every
            taken = every if kind.takes_levels else (self.backbone.features(every),)
            if extra_norm is not None:
                taken = *taken[:-1], extra_norm(taken[-1])
            output = head(taken if kind.takes_levels else taken[0], keys)
            output = Output(output.features.astype(dtype), output.logits.astype(dtype))
            if project is not None:
                output = output.replace(projected=project(self.backbone.features(every)).astype(dtype))
            if liken is not None:
                output = output.replace(likened=liken(every[-1]).astype(dtype))
            return every, taken, output

        return see

    def at_two_resolutions(
        self, see: Callable, attention: ScaleAttention, images: jax.Array, keys: jax.Array | None,
        places: jax.Array | None,
    ) -> Output:  # fmt: skip
        """What the network says at two resolutions: of the context everywhere, and of windows at full size."""
        unit, size = self.detail_unit, self.output_size(images.shape[1:3])
        images = two_resolutions.padded(images, unit)
        whole, window = images.shape[1:3], tuple(map(min, self.detail_size, images.shape[1:3]))
        grid, cells = self.output_size(whole), self.output_size(window)
        every, taken, context = see(two_resolutions.halved(images), keys)
        self.sow("intermediates", "encoded", every[-1])
        trusted = nn.sigmoid(attention(taken, context.logits.shape[1:3], keys).astype(context.logits.dtype))
        if places is None:
            detail, own = self.in_windows(see, images, window, grid), None
        else:
            own = see(two_resolutions.crop(images, places, window), folded(keys))[-1].logits
            at = places // unit * round(unit / self.output_stride)  # on the grid
            trusted = two_resolutions.attention_inside(trusted, at // 2, tuple(-(-n // 2) for n in cells))
            detail = two_resolutions.placed(own, at, grid)
        logits = two_resolutions.fuse(context.logits, detail, trusted)[:, : size[0], : size[1]]
        between = two_resolutions.interpolation_between(context.features.shape[1:3], grid)
        features = resize(context.features, grid, between)[:, : size[0], : size[1]]
        return context.replace(features=features, logits=logits, heads=(logits,), detail=own)

    def in_windows(
        self, see: Callable, images: jax.Array, window: tuple[int, int], grid: tuple[int, int]
    ) -> jax.Array:
        """Logits of windows all over images of multiples of `detail_unit`, averaged where they overlap."""
        rows, columns = (two_resolutions.starts(n, m, self.detail_unit)
                         for n, m in zip(images.shape[1:3], window, strict=True))  # fmt: skip
        corners = [(top, left) for top in rows for left in columns]
        shown = [images[:, top : top + window[0], left : left + window[1]] for top, left in corners]
        logits = see(jnp.concatenate(shown), None)[-1].logits
        parts = logits.reshape(len(corners), -1, *logits.shape[1:])
        places = [tuple(round(n / self.output_stride) for n in corner) for corner in corners]
        return two_resolutions.average_windows([parts[i] for i in range(len(corners))], places, grid)

    def combined(self, main: jax.Array, auxiliary: jax.Array | None = None) -> jax.Array:
        """Logits of the network from those of its heads, [batch, h, w, classes]: main + weight * auxiliary."""
        if auxiliary is None or not self.auxiliary_weight:
            return main
        return main + self.auxiliary_weight * resize_align_corners(auxiliary, main.shape[1:3])


def folded(keys: jax.Array | None) -> jax.Array | None:
    """Other keys, for a second use of these [batch]."""
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
