#!/usr/bin/env bash
# ResNets at an output stride of 8 in torchvision, timm and segmentation-models-pytorch.
#
# Guess, before it was run: with the same weights all three compute the same features; that is what names of weights and an
# `output_stride` are for.
# Seen: torchvision's and timm's are equal to the bit, those of segmentation-models-pytorch are not: with random weights
# they differ by a quarter of their size on average, and no check of names or shapes notices. Where a group of blocks has
# its stride replaced by a dilation, the first 3x3 convolution of the group keeps the dilation of the group before in the
# first two libraries (1 and 2), and has that of its own group in the third (2 and 4), as in the Caffe networks of DeepLabv2
# that AdaptSegNet, ADVENT, CLAN and ProDA build. So weights trained by one library and read by another give another network.
# Versions: torch 2.13.0, torchvision 0.28.0, timm 1.0.31, segmentation-models-pytorch 0.6.0; Python 3.11, CPU.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 timm==1.0.31 segmentation-models-pytorch==0.6.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import torch

# None of torchvision's compiled operators is used; a wheel of it that is for CUDA can be imported beside PyTorch for CPUs
# once they are declared.
declared = torch.library.Library("torchvision", "FRAGMENT")
if "+cpu" in torch.__version__:
    for operator in ("nms", "qnms", "roi_align", "qroi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d",
                     "_roi_align_backward", "_ps_roi_align_backward", "_roi_pool_backward", "_ps_roi_pool_backward",
                     "_deform_conv2d_backward"):
        declared.define(f"{operator}(Tensor x) -> Tensor")
import segmentation_models_pytorch as smp
import timm
import torchvision

torch.manual_seed(0)
networks = {
    "torchvision": torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]),
    "timm": timm.create_model("resnet50", output_stride=8),
    "segmentation_models_pytorch": smp.encoders.get_encoder("resnet50", weights=None, output_stride=8),
}
weights = networks["torchvision"].state_dict()
features, dilations = {}, {}
image = torch.randn(1, 3, 96, 128)
for name, network in networks.items():
    theirs = network.state_dict()
    network.load_state_dict({key: weights[key] for key in theirs})  # each key is there, with its shape
    assert set(weights) - set(theirs) <= {"fc.weight", "fc.bias"}
    network.eval()
    x = network.bn1(network.conv1(image))
    with torch.no_grad():
        x = torch.nn.functional.max_pool2d(torch.relu(x), 3, 2, 1)
        for group in (network.layer1, network.layer2, network.layer3, network.layer4):
            x = group(x)
    features[name] = x
    groups = (network.layer3, network.layer4)
    dilations[name] = [[block.conv2.dilation[0] for block in list(group)[:2]] for group in groups]
    print(name, tuple(x.shape), "dilations of the first two blocks of groups 3 and 4:", dilations[name])
assert torch.equal(features["torchvision"], features["timm"])
assert dilations["torchvision"] == dilations["timm"] == [[1, 2], [2, 4]]
assert dilations["segmentation_models_pytorch"] == [[2, 2], [4, 4]]
reference, other = features["torchvision"], features["segmentation_models_pytorch"]
assert reference.shape == other.shape
apart = float((reference - other).abs().mean() / reference.abs().mean())
print(f"segmentation_models_pytorch is {apart:.2f} of the features' mean size away from torchvision, timm 0")
assert 0.1 < apart < 0.6
PROGRAM
