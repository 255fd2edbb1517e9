#!/usr/bin/env bash
# PNG decoders, libspng and zlib.
#
# Guess, before it was run: libspng, made to be quicker than libpng, decodes a photograph of 2048 x 1024 in three quarters
# of libpng's time or less, since filters of rows are what decoders differ in.
# Seen: as long as libpng (0.99 to 1.04 of its time). 0.7 to 0.9 of both is zlib's inflating, which neither can spare;
# libdeflate inflates the same bytes in a third to a half of zlib's time. So what is quick is not a quicker PNG library, but
# one that does not inflate with zlib: pyspng, OpenCV, libvips, Pillow and TensorFlow took as long or longer.
# Versions: imagecodecs 2026.3.6 (libspng and libpng), deflate 0.9.0 (libdeflate), pillow 13.0.0, numpy 2.4.6;
# Python 3.11, x86-64 Linux. Times are the processor's, in turn, medians of seven rounds.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet imagecodecs==2026.3.6 deflate==0.9.0 pillow==13.0.0 numpy==2.4.6
cat > "$folder/decode.py" <<'PROGRAM'
import io
import statistics
import time
import zlib

import deflate
import imagecodecs
import numpy as np
from PIL import Image

rng = np.random.default_rng(0)
coarse = Image.fromarray(rng.integers(0, 256, (16, 32, 3), np.uint8)).resize((2048, 1024), Image.Resampling.BICUBIC)
noisy = np.clip(np.asarray(coarse, np.float32) + rng.normal(0, 2, (1024, 2048, 3)), 0, 255).round().astype(np.uint8)
file = io.BytesIO()
Image.fromarray(noisy).save(file, "PNG")
png = file.getvalue()
at, parts = 8, []
while at < len(png):
    length = int.from_bytes(png[at : at + 4], "big")
    if png[at + 4 : at + 8] == b"IDAT":
        parts.append(png[at + 8 : at + 8 + length])
    at += 12 + length
compressed, size = b"".join(parts), 1024 * (1 + 3 * 2048)
ways = {
    "libpng": lambda: imagecodecs.png_decode(png),
    "libspng": lambda: imagecodecs.spng_decode(png),
    "zlib": lambda: zlib.decompress(compressed),
    "libdeflate": lambda: deflate.zlib_decompress(compressed, size),
}
assert all(np.array_equal(ways[name](), noisy) for name in ("libpng", "libspng"))
assert ways["zlib"]() == ways["libdeflate"]()
times = {name: [] for name in ways}
for _ in range(7):
    for name, way in ways.items():
        started = time.process_time()
        for _ in range(3):
            way()
        times[name].append((time.process_time() - started) / 3e-3)
took = {name: statistics.median(values) for name, values in times.items()}
print(f"{len(png) / 1e6:.1f} MB;", ", ".join(f"{name} {ms:.1f} ms" for name, ms in took.items()))
assert took["libspng"] > 0.8 * took["libpng"], "libspng is quicker now"
assert took["zlib"] > 0.5 * took["libpng"], "zlib is no longer most of it"
assert took["libdeflate"] < 0.6 * took["zlib"], "libdeflate is no longer much quicker"
PROGRAM
"$folder/venv/bin/python" "$folder/decode.py"
