#!/usr/bin/env bash
# kornia's ColorJitter, through which DACS, DAFormer, HRDA and MIC send their mixed images (they pin kornia 0.5.8).
#
# Guess, before it was run: with the same arguments and the same random factors, 0.5.8 and 0.9.0 make the same images to
# rounding, and both make torchvision's.
# Seen: of four operations three changed, in a release of the third digit: 0.6.3 computes them as 0.5.8 does, 0.6.4 as
# 0.9.0. Until then brightness f adds f - 1 to all channels, contrast f multiplies the image (so it changes how bright it
# is, and nothing else), and saturation f multiplies the S of HSV; since then brightness multiplies, contrast scales about
# the mean luma, saturation blends with the pixel's luma, which is how torchvision has them. Hue did not change. Factors
# drawn from a seed are the same in both, so nothing that is logged tells them apart.
# Why it matters here: those methods' published scores are of the first kind; the same code with a kornia that installs
# beside today's PyTorch trains on other images: dark pixels are up to a fifth of the range apart for a brightness of 0.2.
# Versions: kornia 0.5.8, 0.6.3, 0.6.4 and 0.9.0 (with kornia-rs 0.2.0), torch 2.13.0, numpy 2.4.6; Python 3.11, CPU.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 packaging kornia-rs==0.2.0
for version in 0.5.8 0.6.3 0.6.4 0.9.0; do
    "$folder/venv/bin/pip" install --quiet --no-deps --target "$folder/$version" "kornia==$version"
done
cat > "$folder/jitter.py" <<'PROGRAM'
import colorsys
import sys

import kornia
import numpy as np
import torch


def luma(images):
    return images @ np.array([0.299, 0.587, 0.114])


def in_hsv(images, change):
    """Each pixel with `change(f, h, s, v)` in place of its hue, saturation and value, f of its image."""
    out = np.empty_like(images)
    for at in np.ndindex(images.shape[:3]):
        out[at] = colorsys.hsv_to_rgb(*change(factors[at[0]], *colorsys.rgb_to_hsv(*images[at])))
    return out


def hue(images, f):
    return in_hsv(images, lambda f, h, s, v: ((h + f) % 1.0, s, v))


OLD = {
    "brightness": lambda images, f: images + (f - 1.0),
    "contrast": lambda images, f: images * f,
    "saturation": lambda images, f: in_hsv(images, lambda f, h, s, v: (h, min(1.0, s * f), v)),
    "hue": hue,
}
NEW = {
    "brightness": lambda images, f: images * f,
    "contrast": lambda images, f: images * f + (1.0 - f) * luma(images).mean((1, 2))[:, None, None, None],
    "saturation": lambda images, f: images * f + (1.0 - f) * luma(images)[..., None],
    "hue": hue,
}
assert kornia.__version__ == sys.argv[1]
images = 0.3 + 0.4 * np.random.default_rng(0).random((2, 8, 8, 3))  # nothing that a factor of 0.8 to 1.2 would cut
for name in OLD:
    torch.manual_seed(0)
    jitter = kornia.augmentation.ColorJitter(**{name: 0.2}, p=1.0)
    got = jitter(torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float32)).numpy().transpose(0, 2, 3, 1)
    factors = next(value for key, value in jitter._params.items() if name in key).numpy().astype(np.float64)
    apart = {
        which: float(np.abs(got - formulas[name](images, factors[:, None, None, None])).max())
        for which, formulas in (("old", OLD), ("new", NEW))
    }
    print(f"kornia {sys.argv[1]}, {name} by {factors.round(4)}: {apart['old']:.1e} from the old, {apart['new']:.1e} from the new")
    mine, other = ("old", "new") if sys.argv[1] in ("0.5.8", "0.6.3") else ("new", "old")
    assert apart[mine] < 1e-5, (name, apart)
    assert name == "hue" or apart[other] > 0.01, (name, apart)
PROGRAM
for version in 0.5.8 0.6.3 0.6.4 0.9.0; do
    PYTHONPATH="$folder/$version" "$folder/venv/bin/python" -W ignore "$folder/jitter.py" "$version"
done
