"""Vision transformers under the names of Hugging Face's and timm's files, brought to those of their authors.

What Hugging Face's library calls an array in memory is not what it calls it in its files; both are known here.
"""

import re
from collections.abc import Mapping

import numpy as np

# of networks that hold a backbone
WRAPPERS = re.compile(r"^(?:segformer|backbone|dinov2|dinov2_with_registers|model(?=\.layer\.))\.")

# Modules below a block: theirs to the authors'. A number after ':' is the place among arrays that are joined as one.
SEGFORMER_BLOCK = {
    "layer_norm_1": "norm1", "attention.self.query": "attn.q", "attention.self.key": "attn.kv:0",
    "attention.self.value": "attn.kv:1", "attention.self.sr": "attn.sr", "attention.self.layer_norm": "attn.norm",
    "attention.output.dense": "attn.proj", "layer_norm_2": "norm2", "mlp.dense1": "mlp.fc1",
    "mlp.dwconv.dwconv": "mlp.dwconv.dwconv", "mlp.dense2": "mlp.fc2",
    # in memory
    "layernorm_before": "norm1", "attention.q_proj": "attn.q", "attention.k_proj": "attn.kv:0",
    "attention.v_proj": "attn.kv:1", "attention.sequence_reduction.sequence_reduction": "attn.sr",
    "attention.sequence_reduction.layer_norm": "attn.norm", "attention.o_proj": "attn.proj",
    "layernorm_after": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip
DINO_BLOCK = {
    "norm1": "norm1", "attention.attention.query": "attn.qkv:0", "attention.attention.key": "attn.qkv:1",
    "attention.attention.value": "attn.qkv:2", "attention.output.dense": "attn.proj", "layer_scale1": "ls1",
    "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "layer_scale2": "ls2",
    # in memory, and DINOv3's
    "attention.q_proj": "attn.qkv:0", "attention.k_proj": "attn.qkv:1", "attention.v_proj": "attn.qkv:2",
    "attention.o_proj": "attn.proj", "mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2",
}  # fmt: skip
JOINED = {"attn.kv": 2, "attn.qkv": 3}  # of how many arrays
LEAVES = {"lambda1": "gamma"}
# A pattern of names of modules, and the authors' name; {1} is the first number in it plus one.
MODULES = {
    r"encoder\.patch_embeddings\.(\d+)\.proj": "patch_embed{1}.proj",
    r"encoder\.patch_embeddings\.(\d+)\.layer_norm": "patch_embed{1}.norm",
    r"encoder\.layer_norm\.(\d+)": "norm{1}",
    r"stages\.(\d+)\.patch_embeddings\.proj": "patch_embed{1}.proj",
    r"stages\.(\d+)\.patch_embeddings\.layer_norm": "patch_embed{1}.norm",
    r"stages\.(\d+)\.layer_norm": "norm{1}",
    r"embeddings\.patch_embeddings(?:\.projection)?": "patch_embed.proj",
    r"layernorm": "norm",
}
TOKENS = {  # arrays that belong to no module
    "embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "register_tokens", "embeddings.mask_token": "mask_token",
    "reg_token": "register_tokens",
}  # fmt: skip
TIMM = {  # of timm's DINOv3, whole names below a block
    "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "attn.q_bias": "attn.qkv.bias:0", "attn.v_bias": "attn.qkv.bias:2",
}  # fmt: skip
SEGFORMER = re.compile(r"(?:encoder\.block|stages)\.(\d+)\.(?:blocks\.)?(\d+)\.(.+)")
DINO = re.compile(r"(?:encoder\.)?layer\.(\d+)\.(.+)")
OF_TRANSFORMERS = re.compile(
    r"(encoder\.block|stages)\.\d+\.|(encoder\.)?layer\.\d+\.|encoder\.patch_embeddings|embeddings\.|block\d\.|blocks\.\d"
)


def authors_names(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays of a vision transformer under its authors' names, and notes on what was done.

    What nobody knows keeps its name. Arrays that belong together are joined; where one of them is missing, or they do
    not fit, none is taken, and a note says so: the array that they would have been is missing then, with all others.

    Args:
      arrays: under any names; those of other networks stay as they are.
    """
    stripped = {WRAPPERS.sub("", name): array for name, array in arrays.items()}
    if len(stripped) < len(arrays) or not any(map(OF_TRANSFORMERS.match, stripped)):
        return dict(arrays), []
    found: dict[str, np.ndarray] = {}
    parts: dict[str, dict[int, np.ndarray]] = {}
    for name, array in stripped.items():
        renamed, part = authors_name(name)
        if part is None:
            found[renamed] = array
        else:
            parts.setdefault(renamed, {})[part] = array
    notes = ["names were brought to those of the authors' code"] * (set(found) != set(arrays))
    dinov3 = bool(found) and "pos_embed" not in found and "register_tokens" in found
    if dinov3:
        found["storage_tokens"] = found.pop("register_tokens")
    for name, some in parts.items():
        number = JOINED[re.search(r"attn\.\w+", name)[0]]
        if dinov3 and name.endswith("qkv.bias") and sorted(some) == [0, 2]:
            some = some | {1: np.zeros_like(some[0])}  # keys have none
        if sorted(some) == list(range(number)) and len({array.shape for array in some.values()}) == 1:
            found[name] = np.concatenate([some[i] for i in range(number)])
        else:
            shapes = ", ".join(f"{i} {array.shape}" for i, array in sorted(some.items()))
            notes.append(f"{name} is made of {number} arrays of one shape, of which there are {shapes}")
    if "reg_token" in stripped and "pos_embed" in found:  # timm's first token has no position of its own
        places = found["pos_embed"]
        found["pos_embed"] = np.concatenate([np.zeros_like(places[:, :1]), places], axis=1)
        notes.append("pos_embed: timm's has none for cls_token, which got zeros")
    return found, notes


def authors_name(name: str) -> tuple[str, int | None]:
    """The authors' name of an array, and its place where it is one of several that are joined."""
    if name in TOKENS:
        return TOKENS[name], None
    if timm := re.fullmatch(r"(blocks\.\d+)\.(gamma_[12]|attn\.[qv]_bias)", name):
        below, _, part = TIMM[timm[2]].partition(":")
        return f"{timm[1]}.{below}", int(part) if part else None
    module, _, leaf = name.rpartition(".")
    leaf = LEAVES.get(leaf, leaf)
    if block := SEGFORMER.fullmatch(module):
        below, prefix = SEGFORMER_BLOCK.get(block[3]), f"block{int(block[1]) + 1}.{block[2]}"
    elif block := DINO.fullmatch(module):
        below, prefix = DINO_BLOCK.get(block[2]), f"blocks.{block[1]}"
    else:
        for pattern, ours in MODULES.items():
            if match := re.fullmatch(pattern, module):
                return f"{ours.format(None, *(int(number) + 1 for number in match.groups()))}.{leaf}", None
        return name, None
    if below is None:
        return name, None
    below, _, part = below.partition(":")
    return f"{prefix}.{below}.{leaf}", int(part) if part else None
