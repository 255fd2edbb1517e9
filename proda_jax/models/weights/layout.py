"""What arrays a segmentation network has under the released code's names, and what a file's arrays say of theirs."""

import dataclasses
import re
from collections.abc import Iterator, Mapping

from proda_jax.models import backbones, contrast_projection, scale_attention
from proda_jax.models.backbones import Backbone
from proda_jax.models.deeplab import LOWER, NO_AUXILIARY, PARALLEL
from proda_jax.models.heads import HEADS
from proda_jax.models.heads.released import SQUEEZE_RATIO
from proda_jax.models.shapes import Shape, affine, batch_norm, conv
from proda_jax.models.weights.torch_names import AUXILIARY

PLAIN_BRANCH = re.compile(r"layer5\.conv2d_list\.(\d+)\.(weight|bias)")
RELEASED_BRANCH = re.compile(r"layer5\.conv2d_list\.(\d+)\.[01]\.(weight|bias)")


@dataclasses.dataclass(frozen=True)
class Layout:
    """What decides the names and shapes of a network's arrays.

    Attributes:
      backbone: None where no array is of any.
      extra_norm: one more batch normalisation follows the backbone.
      head: a name of `HEADS`, or None where there is only a backbone.
      auxiliary_head: where a second head of the same kind sits, one of `deeplab.AUXILIARY`.
      scale_attention: whether it joins two resolutions, with as many `attention_channels`.
      projection_channels, foundation_channels: of what helps in training alone; None where there is none.
      inputs: channels that the head takes, where these are not the backbone's.
      dilated_branches: 3x3 branches of the head; those of 'released' and 'daformer' have one of 1x1 besides.
      classes: None where no array tells.
      head_channels, feature_channels: of these two.
    """

    backbone: Backbone | None = None
    extra_norm: bool = False
    head: str | None = None
    auxiliary_head: str = NO_AUXILIARY
    scale_attention: bool = False
    attention_channels: int | None = None
    projection_channels: int | None = None
    foundation_channels: int | None = None
    inputs: int | None = None
    dilated_branches: int = 0
    classes: int | None = None
    head_channels: int | None = 256
    feature_channels: int | None = 256

    def shapes(self) -> dict[str, Shape]:
        """The shape of every array, in PyTorch's layouts, by its name."""
        shapes = dict(self.backbone.shapes())
        if self.extra_norm:
            whole = self.head is None or not HEADS[self.head].takes_levels
            last = self.backbone.channels if whole else self.backbone.levels[-1].channels
            shapes |= batch_norm("bn_pretrain", last)
        shapes |= self._head_shapes()
        if self.auxiliary_head != NO_AUXILIARY:
            inputs = self.backbone.levels[-2].channels if self.auxiliary_head == LOWER else None
            auxiliary = dataclasses.replace(self, inputs=inputs)._head_shapes()
            shapes |= {AUXILIARY + name: shape for name, shape in auxiliary.items()}
        if self.scale_attention:
            levels = self.head is not None and HEADS[self.head].takes_levels
            taken = [level.channels for level in self.backbone.levels] if levels else [self.channels]
            shapes |= dict(scale_attention.shapes(self, taken))
        if self.projection_channels:
            shapes |= dict(contrast_projection.shapes(self.backbone.channels, self.projection_channels))
        if self.foundation_channels:
            shapes |= conv("foundation", self.foundation_channels, self.backbone.levels[-1].channels, 1)
        return shapes

    @property
    def channels(self) -> int:
        """Channels that the head takes."""
        return self.inputs or self.backbone.channels

    def _head_shapes(self) -> dict[str, Shape]:
        if self.head == "released":
            return dict(self._released_head())
        if self.head == "deeplab":
            branches = (f"layer5.conv2d_list.{i}" for i in range(self.dilated_branches))
            return {k: v for name in branches for k, v in conv(name, self.classes, self.channels, 3).items()}
        return dict(HEADS[self.head].shapes(self)) if self.head is not None else {}

    def classifier(self) -> set[str]:
        """Names of what scores classes: files for another set of classes, or for none, may lack it."""
        if self.head == "released":
            names = {"layer5.head.1.weight"}
        elif self.head not in (None, "deeplab"):
            names = set(HEADS[self.head].classifier)
        else:
            names = {name for name in self.shapes() if PLAIN_BRANCH.fullmatch(name)}
        return names | {AUXILIARY + name for name in names}

    def _released_head(self) -> Iterator[tuple[str, Shape]]:
        for i in range(self.dilated_branches + 1):
            name = f"layer5.conv2d_list.{i}"
            yield from conv(f"{name}.0", self.head_channels, self.channels, 3 if i else 1).items()
            yield from affine(f"{name}.1", self.head_channels).items()
        joined = self.head_channels and self.head_channels * (self.dilated_branches + 1)
        squeezed = joined and joined // SQUEEZE_RATIO
        for i, (out, into) in {0: (squeezed, joined), 2: (joined, squeezed)}.items():
            yield f"layer5.bottleneck.0.se.{i}.weight", (out, into)
            yield f"layer5.bottleneck.0.se.{i}.bias", (out,)
        yield from conv("layer5.bottleneck.1", self.feature_channels, joined, 3).items()
        yield from affine("layer5.bottleneck.2", self.feature_channels).items()
        yield "layer5.head.1.weight", (self.classes, self.feature_channels, 1, 1)


def auxiliary_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Where a second head sits: where it takes other channels than the first, on another map."""
    own = {name.removeprefix(AUXILIARY): shape for name, shape in shapes.items() if name.startswith(AUXILIARY)}
    if not own:
        return NO_AUXILIARY
    return PARALLEL if all(shapes.get(name, shape) == shape for name, shape in own.items()) else LOWER


def read_off(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """The layout that arrays of these names and shapes seem to have.

    Gaps do not mislead it: the last block and the last branch that are named count. What is missing or of another
    shape shows where the arrays are compared with the layout's own.
    """

    def channels(*names: str) -> int | None:
        """Output channels of the first of these arrays that is there."""
        return next((shapes[name][0] for name in names if shapes.get(name)), None)

    plain = {int(match[1]) for match in map(PLAIN_BRANCH.fullmatch, shapes) if match}
    released = {int(match[1]) for match in map(RELEASED_BRANCH.fullmatch, shapes) if match}
    layout = Layout(
        backbone=backbones.read_off(shapes),
        extra_norm=any(name.startswith("bn_pretrain.") for name in shapes),
        auxiliary_head=auxiliary_of(shapes),
        scale_attention=any(name.startswith(f"{scale_attention.PREFIX}.") for name in shapes),
        foundation_channels=channels("foundation.weight"),
        projection_channels=channels(f"{contrast_projection.MODULE}.last.conv.weight"),
        attention_channels=channels(f"{scale_attention.PREFIX}.fuse_layer.conv.weight"),
    )
    if released or any(name.startswith(("layer5.bottleneck.", "layer5.head.")) for name in shapes):
        return dataclasses.replace(
            layout,
            head="released",
            dilated_branches=max(released, default=0),
            classes=channels("layer5.head.1.weight"),
            head_channels=channels("layer5.conv2d_list.0.0.weight", "layer5.conv2d_list.0.0.bias"),
            feature_channels=channels("layer5.bottleneck.1.weight", "layer5.bottleneck.1.bias"),
        )
    if plain:
        first = min(plain)
        names = (f"layer5.conv2d_list.{first}.{leaf}" for leaf in ("weight", "bias"))
        return dataclasses.replace(layout, head="deeplab", dilated_branches=max(plain) + 1, classes=channels(*names))
    for name, head in HEADS.items():
        if sizes := head.read_off(shapes):
            return dataclasses.replace(layout, head=name, **sizes)
    return layout
