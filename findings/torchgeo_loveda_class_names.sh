#!/usr/bin/env bash
# torchgeo's LoveDA and the names of its classes.
#
# Guess, before it was run: `LoveDA.classes[label]` is the name of a label, since the data set gives labels as its files
# hold them and lists eight names for the eight values 0 to 7.
# Seen: every name is one off. Files hold 0 where there is no data and 1 to 7 for background to agriculture, which is what
# the class's own docstring says and what the data set gives; the list of names begins with 'background' and ends with
# 'no-data'. So a table of scores by these names calls buildings roads and water barren, and whoever leaves out the last
# name as the ignored one trains on pixels without data and leaves out agriculture.
# Versions: torchgeo 0.8.1, torch 2.13.0, pillow 13.0.0, requests 2.32.5 (which it imports and does not ask for); Python
# 3.11, CPU. Two images of 16 x 16 in the folders of the data set; nothing is downloaded.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchgeo==0.8.1 torch==2.13.0 pillow==13.0.0 requests==2.32.5
cd "$folder"
cat > names.py <<'PROGRAM'
import pathlib

import numpy as np
import torch
from PIL import Image

# None of torchvision's compiled operators is used; a wheel of it that is for CUDA can be imported beside PyTorch for CPUs
# once they are declared.
declared = torch.library.Library("torchvision", "FRAGMENT")
if "+cpu" in torch.__version__:
    for operator in ("nms", "qnms", "roi_align", "qroi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d",
                     "_roi_align_backward", "_ps_roi_align_backward", "_roi_pool_backward", "_ps_roi_pool_backward",
                     "_deform_conv2d_backward"):
        declared.define(f"{operator}(Tensor x) -> Tensor")
from torchgeo.datasets import LoveDA

TRUE = {0: "no-data", 1: "background", 2: "building", 3: "road", 4: "water", 5: "barren", 6: "forest", 7: "agriculture"}
root = pathlib.Path("LoveDA")
for scene in ("Urban", "Rural"):
    for kind, array in (("images_png", np.zeros((16, 16, 3), np.uint8)),
                        ("masks_png", np.repeat(np.arange(8, dtype=np.uint8), 32).reshape(16, 16))):
        where = root / "Train" / scene / kind
        where.mkdir(parents=True)
        Image.fromarray(array).save(where / "0.png")
found = LoveDA(str(root), split="train", scene=["urban", "rural"])
labels = sorted(found[0]["mask"].unique().tolist())
print("labels that it gives:", labels)
print("its names of them:", [found.classes[label] for label in labels])
print("the data set's:   ", [TRUE[label] for label in labels])
assert labels == list(TRUE)
assert all(found.classes[label] != TRUE[label] for label in labels)
assert all(found.classes[label - 1] == TRUE[label] for label in labels)
PROGRAM
"$folder/venv/bin/python" -W ignore names.py
