"""The networks in PyTorch, under the names that files of weights have: the released one, plain DeepLabv2, the demo's.

They are written from the description of those networks, so that ours are compared, in tests and in speed, with
something of another make.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

# of EfficientNet-Lite's groups: channels that come out, expansion, side of the kernels, stride and dilation of the
# first block, dilation of the others; the last one's stride of 2 is gone
LITE_GROUPS = (
    (16, 1, 3, 1, 1, 1), (24, 6, 3, 2, 1, 1), (40, 6, 5, 2, 1, 1), (80, 6, 3, 2, 1, 1), (112, 6, 5, 1, 1, 1),
    (192, 6, 5, 1, 1, 2),
)  # fmt: skip


class Block(nn.Module):
    """A bottleneck, with the stride in its first convolution."""

    def __init__(self, inputs: int, inner: int, stride: int, dilation: int, project: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * inner)
        if project:
            shortcut = nn.Conv2d(inputs, 4 * inner, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return (self.bn3(self.conv3(x)) + shortcut).relu()


class PlainHead(nn.Module):
    def __init__(self, inputs: int, classes: int):
        super().__init__()
        self.conv2d_list = nn.ModuleList(nn.Conv2d(inputs, classes, 3, padding=d, dilation=d) for d in (6, 12, 18, 24))

    def forward(self, x: torch.Tensor, branches: int = 4) -> torch.Tensor:
        return sum(branch(x) for branch in self.conv2d_list[:branches])


class Gate(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        first, second = nn.Linear(channels, channels // 16), nn.Linear(channels // 16, channels)
        self.se = nn.Sequential(first, nn.ReLU(), second, nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.se(x.mean((2, 3)))[:, :, None, None]


class ReleasedHead(nn.Module):
    def __init__(self, inputs: int, classes: int, channels: int, features: int, dilations: tuple[int, ...]):
        super().__init__()

        def branch(dilation: int) -> nn.Sequential:
            kernel = {"kernel_size": 3, "padding": dilation, "dilation": dilation} if dilation else {"kernel_size": 1}
            return nn.Sequential(nn.Conv2d(inputs, channels, **kernel), nn.GroupNorm(32, channels), nn.ReLU())

        joined = (len(dilations) + 1) * channels
        self.conv2d_list = nn.ModuleList(branch(dilation) for dilation in (0, *dilations))
        bottleneck = nn.Conv2d(joined, features, 3, padding=1)
        self.bottleneck = nn.Sequential(Gate(joined), bottleneck, nn.GroupNorm(32, features))
        self.head = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(features, classes, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores [batch, classes, h, w]."""
        return self.head(self.features(x))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The feature f [batch, features, h, w] before dropout and classifier."""
        return self.bottleneck(torch.cat([branch(x) for branch in self.conv2d_list], 1))


class Network(nn.Module):
    """Backbone and a head named layer5.

    `auxiliary`: a plain main head named layer6, and layer5 on the third group ('lower') or beside it ('parallel').
    """

    head = "layer5"

    def __init__(
        self,
        depths=(1, 1, 1, 1),
        width=8,
        classes=5,
        *,
        head: str | None = "released",
        head_channels=32,
        feature_channels=None,
        dilations=(6, 12, 18, 24),
        extra_norm=False,
        auxiliary: str | None = None,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs, self.groups = width, len(depths)
        for group, (depth, stride, dilation) in enumerate(zip(depths, (1, 2, 1, 1), (1, 1, 2, 4), strict=False)):
            inner = width * 2**group
            blocks = [Block(inputs, inner, stride, dilation, True)]
            blocks += [Block(4 * inner, inner, 1, dilation, False) for _ in range(depth - 1)]
            setattr(self, f"layer{group + 1}", nn.Sequential(*blocks))
            inputs = 4 * inner
        if extra_norm:
            self.bn_pretrain = nn.BatchNorm2d(inputs)
        if head == "released":
            self.layer5 = ReleasedHead(inputs, classes, head_channels, feature_channels or head_channels, dilations)
        elif head == "deeplab":
            self.layer5 = PlainHead(inputs // 2 if auxiliary == "lower" else inputs, classes)
            if auxiliary:
                self.layer6 = PlainHead(inputs, classes)

    def forward(self, x: torch.Tensor, **head) -> torch.Tensor:
        return getattr(self, "layer6" if hasattr(self, "layer6") else "layer5")(self.backbone(x), **head)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The feature f of the released head."""
        return self.layer5.features(self.backbone(x))

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Class scores of features."""
        return self.layer5.head(features)

    def compile_parts(self) -> None:
        compile_blocks(self)
        self.stem = torch.compile(self.stem, dynamic=False)
        self.layer5.features = torch.compile(self.layer5.features, dynamic=False)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1, ceil_mode=True)

    def backbone(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for group in range(self.groups):
            x = getattr(self, f"layer{group + 1}")(x)
        if hasattr(self, "bn_pretrain"):
            x = self.bn_pretrain(x)
        return x


def normed(norm: nn.Module, conv: nn.Module, x: torch.Tensor, most: float | None = None) -> torch.Tensor:
    """A convolution, normalised and rectified; with `most` from above, too, as ReLU6 does."""
    x = norm(conv(x))
    return x.relu() if most is None else x.clamp(0.0, most)


def depthwise(channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)


class InvertedBottleneck(nn.Module):
    """A block of EfficientNet-Lite, its layers named as in the files of weights."""

    def __init__(self, inputs: int, channels: int, expansion: int, kernel: int, stride: int, dilation: int):
        super().__init__()
        inner, self.shortcut = inputs * expansion, stride == 1 and inputs == channels
        if expansion > 1:
            self._expand_conv = nn.Conv2d(inputs, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = depthwise(inner, kernel, stride, dilation)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = nn.Conv2d(inner, channels, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = x
        if hasattr(self, "_expand_conv"):
            x = normed(self._bn0, self._expand_conv, x, 6.0)
        x = self._bn2(self._project_conv(normed(self._bn1, self._depthwise_conv, x, 6.0)))
        return x + given if self.shortcut else x


class Decoder(nn.Module):
    """The small decoder of DeepLabv3+ on maps at strides 8 and 16."""

    def __init__(self, detail: int, inputs: int, channels: int, features: int, classes: int, dilations: tuple):
        super().__init__()
        for i, dilation in enumerate((0, *dilations)):
            if dilation:
                self.add_module(f"branch{i}_depthwise_conv", depthwise(inputs, dilation=dilation))
                self.add_module(f"branch{i}_depthwise_bn", nn.BatchNorm2d(inputs))
            self.join(f"branch{i}", inputs, channels)
        self.join("context", (len(dilations) + 1) * channels, features)
        self.join("detail", detail, 48)
        self.join("fusion", features + 48, features, kernel=3)
        self.classifier, self.dilations = nn.Conv2d(features, classes, 1, bias=False), dilations

    def join(self, name: str, inputs: int, channels: int, kernel: int = 1) -> None:
        self.add_module(f"{name}_conv", nn.Conv2d(inputs, channels, kernel, padding=kernel // 2, bias=False))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(channels))

    def run(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return normed(getattr(self, f"{name}_bn"), getattr(self, f"{name}_conv"), x)

    def forward(self, detail: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The feature f."""
        branches = [self.run("branch0", x)]
        branches += [
            self.run(f"branch{i}", self.run(f"branch{i}_depthwise", x)) for i in range(1, len(self.dilations) + 1)
        ]
        context = self.run("context", torch.cat(branches, 1))
        context = nn.functional.interpolate(context, detail.shape[2:], mode="bilinear", align_corners=True)
        return self.run("fusion", torch.cat([context, self.run("detail", detail)], 1))


def lite_blocks(depths: Sequence[int], inputs: int) -> Iterator[tuple]:
    """(inputs, channels, expansion, kernel, stride, dilation) of each block."""
    for depth, (channels, expansion, kernel, stride, first, others) in zip(depths, LITE_GROUPS, strict=True):
        for number in range(depth):
            yield inputs, channels, expansion, kernel, 1 if number else stride, others if number else first
            inputs = channels


class LiteNetwork(nn.Module):
    """EfficientNet-Lite and `Decoder`, without dropout."""

    head = "decoder"

    def __init__(self, depths, width, classes, *, head_channels, feature_channels, dilations):
        super().__init__()
        blocks = list(lite_blocks(depths, width))
        self._conv_stem = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self._bn0 = nn.BatchNorm2d(width, eps=1e-3)
        self._blocks = nn.ModuleList(InvertedBottleneck(*block) for block in blocks)
        # the map at stride 8 comes in where the fourth stride of 2 is
        self.last_stride = [number for number, block in enumerate(blocks) if block[4] == 2][-1]
        inputs = blocks[self.last_stride][0], blocks[-1][1]
        self.decoder = Decoder(*inputs, head_channels, feature_channels, classes, dilations)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        x = nn.functional.pad(x, (0, -(width - 1) % 16, 0, -(height - 1) % 16))
        x = normed(self._bn0, self._conv_stem, x, 6.0)
        for number, block in enumerate(self._blocks):
            if number == self.last_stride:
                detail = x
            x = block(x)
        return self.decoder(detail, x)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return self.decoder.classifier(features)

    def compile_parts(self) -> None:
        compile_blocks(self)
        self.decoder.compile(dynamic=False)


def compile_blocks(network: nn.Module) -> None:
    """Compiles a network for its image sizes, block by block: those of one shape share what is compiled, so that it
    takes a part of the minutes that the whole would take."""
    torch._dynamo.config.recompile_limit = 64  # shapes of blocks, with and without a backward pass
    for module in network.modules():
        if isinstance(module, Block | InvertedBottleneck):
            module.compile(dynamic=False)


def network_of(model: Any, variables: Any) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network of ours with the same weights, without dropout, and mean and deviation [3, 1, 1] of its input.

    Raises:
      ValueError: a backbone or a head that is not written here.
    """
    from proda_jax.models.weights.torch_names import to_torch  # not above: a process with a peer in it has no JAX

    kinds = {("resnet", "released"): Network, ("efficientnet_lite", "deeplabv3plus"): LiteNetwork}
    if (kind := (model.backbone.family, model.head)) not in kinds:
        known = ", ".join(" with ".join(pair) for pair in kinds)
        raise ValueError(f"{kind[0]} with {kind[1]}: in PyTorch there is {known}")
    arrays = {name: torch.tensor(np.array(array)) for name, array in to_torch(variables).items()}
    mean, std = (arrays.pop(f"input.{name}")[:, None, None] for name in ("mean", "std"))
    network = kinds[kind](
        model.backbone.depths, model.backbone.width, model.classes, head_channels=model.head_channels,
        feature_channels=model.feature_channels, dilations=tuple(model.dilations),
    )  # fmt: skip
    missing, unexpected = network.load_state_dict(arrays, strict=False)
    if unexpected or any("num_batches_tracked" not in name for name in missing):
        raise ValueError(f"the two networks do not have the same arrays: {missing[:3]}, {unexpected[:3]}")
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return network, mean, std


class Labels(nn.Module):
    """Images, uint8 [batch, height, width, 3], to train ids, uint8 [batch, height, width], by a network of ours."""

    def __init__(self, model: Any, variables: Any, size: tuple[int, int]):
        super().__init__()
        self.network, *convention = network_of(model, variables)
        self.size = size
        for name, values in zip(("mean", "std"), convention, strict=True):
            self.register_buffer(name, values)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        scores = self.network.classify(self.network.features(x))
        scores = nn.functional.interpolate(scores, self.size, mode="bilinear", align_corners=True)
        return scores.argmax(1).to(torch.uint8)
