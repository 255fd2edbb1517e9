"""What a compiled program holds, read from its text: collectives, a GPU's traffic, types of convolutions."""

import math
import re
from collections import Counter

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8,
         "s64": 8, "u64": 8}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
INSTRUCTION = re.compile(r"= (?P<shapes>\(.*?\)|\S+) (?P<name>[a-z\-]+?)(?:-start)?\(")
COMPUTATION = re.compile(r"^(ENTRY )?%?(?P<name>[\w.\-]+) [^\n]*\{\n(?P<body>.*?)^\}", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"^ +(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([a-z\-]+)\((.*?)\)(.*)$", re.MULTILINE)
NO_KERNELS = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id")
CALLED = re.compile(r"(?:to_apply|body)=%?([\w.\-]+)")
TIMES = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
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


def traffic(text: str) -> dict[str, dict[str, int]]:
    """What the kernels of a program that is compiled for a GPU read and write, as far as its text tells.

    A loop counts as often as XLA knows that it runs, or once; a conditional as one kernel; slices and updates in place
    as whole arrays.

    Returns:
      {'products', 'others'}: convolutions and matrix products of NVIDIA's libraries, and what XLA made itself, each
      {'count', 'bytes'}.
    """
    bodies, entry = {}, ""
    for found in COMPUTATION.finditer(text):
        bodies[found["name"]] = found["body"]
        entry = found["name"] if found[1] else entry
    total = {name: {"count": 0, "bytes": 0} for name in ("products", "others")}

    def add(computation: str, times: int) -> None:
        sizes: dict[str, int] = {}
        for name, shape, operation, operands, rest in ASSIGNMENT.findall(bodies[computation]):
            sizes[name] = size(shape)
            if operation in ("call", "while"):
                add(CALLED.search(rest)[1], times * int((TIMES.search(rest) or (0, 1))[1]))
            elif operation not in NO_KERNELS:
                read = sum(sizes.get(operand, 0) for operand in set(re.findall(r"%([\w.\-]+)", operands)))
                kind = total["products" if re.search(r'custom_call_target="__cu(dnn|blas)', rest) else "others"]
                kind["count"] += times
                kind["bytes"] += times * (read + sizes[name])

    add(entry, 1)
    return total


def traffic_in_words(found: dict[str, dict[str, int]]) -> str:
    """`traffic` for people."""
    return ", ".join(f"{kind['count']} {name} that move {kind['bytes'] / 1e9:.1f} GB" for name, kind in found.items())


def convolution_types(text: str) -> Counter:
    """How many convolutions of each result type a program's text holds, StableHLO's or HLO's."""
    stable = re.findall(r"stablehlo\.convolution.*-> tensor<(?:\d+x)*(\w+)>", text)
    return Counter(stable or [kind for kind, _ in re.findall(r"= (\w+)\[([\d,]*)\]\S* convolution\(", text)])
