"""Shapes of the arrays of layers in PyTorch's layouts, by the names that they have in files."""

Shape = tuple[int | None, ...]  # None: any size


def conv(name: str, out: int | None, into: int | None, kernel: int) -> dict[str, Shape]:
    return {f"{name}.weight": (out, into, kernel, kernel), f"{name}.bias": (out,)}


def linear(name: str, out: int | None, into: int | None) -> dict[str, Shape]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def affine(name: str, channels: int | None) -> dict[str, Shape]:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def batch_norm(name: str, channels: int | None) -> dict[str, Shape]:
    return affine(name, channels) | {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
