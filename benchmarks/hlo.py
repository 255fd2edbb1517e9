"""What a compiled program holds, read from its text: collectives and their bytes, types of convolutions."""

import math
import re
from collections import Counter

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8,
         "s64": 8, "u64": 8}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
INSTRUCTION = re.compile(r"= (?P<shapes>\(.*?\)|\S+) (?P<name>[a-z\-]+?)(?:-start)?\(")
SHAPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")


def size(shape: str) -> int:
    """Bytes of an HLO shape such as 'f32[64,256]{1,0}', or of a tuple of them."""
    arrays = ((BYTES.get(kind, 0), lengths.split(",")) for kind, lengths in SHAPE.findall(shape))
    return sum(each * math.prod(int(length) for length in lengths if length) for each, lengths in arrays)


def collectives(text: str) -> dict[str, dict[str, int]]:
    """{'all-reduce': {'count', 'bytes'}, ...} of what a compiled program's text holds; bytes are those of results."""
    counts, total = Counter(), Counter()
    for found in INSTRUCTION.finditer(text):
        if found["name"] in COLLECTIVES:
            counts[found["name"]] += 1
            total[found["name"]] += size(found["shapes"])
    return {name: {"count": counts[name], "bytes": total[name]} for name in counts}


def in_words(found: dict[str, dict[str, int]]) -> str:
    """`collectives` for people."""
    return ", ".join(f"{kind['count']} {name} of {kind['bytes'] / 1e6:.1f} MB" for name, kind in found.items())


def convolution_types(text: str) -> Counter:
    """How many convolutions of each result type a program's text holds, StableHLO's or HLO's."""
    stable = re.findall(r"stablehlo\.convolution.*-> tensor<(?:\d+x)*(\w+)>", text)
    return Counter(stable or [kind for kind, _ in re.findall(r"= (\w+)\[([\d,]*)\]\S* convolution\(", text)])
