"""The network in PyTorch, under the names of the released code and of plain DeepLabv2.

It is written from the description of those networks, so that ours is compared, in tests and in speed, with something of
another make.
"""

import torch
from torch import nn


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

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1, ceil_mode=True)

    def backbone(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for group in range(self.groups):
            x = getattr(self, f"layer{group + 1}")(x)
        if hasattr(self, "bn_pretrain"):
            x = self.bn_pretrain(x)
        return x
