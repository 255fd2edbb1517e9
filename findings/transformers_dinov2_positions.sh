#!/usr/bin/env bash
# transformers: DINOv2 with registers and without them resize position embeddings in two ways.
#
# Guess before running: Dinov2Model and Dinov2WithRegistersModel differ in the register tokens alone, so positions for an
# image of another size are interpolated alike.
# Seen with transformers 5.24.0 and torch 2.13.0: for 42 x 42 pixels where positions were learnt for 98 x 98, both are
# bicubic, without registers as torch's antialias=False, with registers as antialias=True. Values of unit scale are up to
# 2.5 apart. Images smaller than the one positions were learnt for (518 pixels in Meta's weights) get other features for it.
# Why it matters here: a port that is compared with one of the two classes, and used with weights of the other, is wrong
# at every size but the trained one, and nothing says so.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "transformers==5.24.0" "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

torch.manual_seed(0)
SIZES = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=98, patch_size=14)
EXPECTED = {Dinov2Model: False, Dinov2WithRegistersModel: True}  # antialiased
for config, model in ((Dinov2Config, Dinov2Model), (Dinov2WithRegistersConfig, Dinov2WithRegistersModel)):
    embeddings = model(config(**SIZES)).eval().embeddings
    embeddings.position_embeddings.data = torch.randn_like(embeddings.position_embeddings)
    grid = embeddings.position_embeddings[:, 1:].reshape(1, 7, 7, 32).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + 9, 32), 42, 42)[:, 1:]
        apart = {}
        for antialias in (False, True):
            way = torch.nn.functional.interpolate(grid, size=(3, 3), mode="bicubic", antialias=antialias)
            apart[antialias] = (found - way.permute(0, 2, 3, 1).reshape(1, 9, 32)).abs().max().item()
    print(f"transformers {transformers.__version__}, {model.__name__}: {apart[False]:.2f} from plain, "
          f"{apart[True]:.2f} from antialiased")
    assert apart[EXPECTED[model]] < 1e-5 < 1.0 < apart[not EXPECTED[model]], "positions are resized in another way now"
PYTHON
