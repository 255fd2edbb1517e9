"""Stage 1's step beside the same step in PyTorch, on the same inputs, in one run.

    pip install -r requirements-dev.txt                                              (brings PyTorch for the CPU)
    python -m benchmarks.peer_pytorch --config=configs/demo.py:scratch                    on a CPU: eager, float32
    python -m benchmarks.peer_pytorch --config=configs/gta5.py --config.model.dtype=bfloat16 --tuned     on a GPU

The step is that of the recipe (configs/base.py) with network and sizes of the configuration: three passes of the
trained network forward and backward, one of the momentum encoder on whole images, Equations 3 to 11, SGD, momentum
encoder and prototypes. Views are drawn beforehand; what drawing them adds to our step is printed, too. Dropout is off.
Before anything is timed, both have to agree on each loss to a thousandth. With --tuned PyTorch gets what it has to
offer: channels last, bfloat16 under autocast, torch.compile, and on a GPU the whole step as one CUDA graph, so that it
waits for no launches.
"""

import concurrent.futures
import copy
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from absl import app, flags
from ml_collections import config_flags
from torch import nn

from benchmarks.flops import PEAKS, Minimum
from benchmarks.programs import Programs
from benchmarks.torch_network import network_of
from proda_jax.adaptation import prototypes, views
from proda_jax.adaptation.stages import build, denoise
from proda_jax.adaptation.stages import step as steps
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.resizing import align_corners_weights
from proda_jax.system import devices, paths

_CONFIG = config_flags.DEFINE_config_file("config", "configs/demo.py:scratch", "Configuration: its network and sizes.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed rounds of each, in turn; medians count.")
_CALLS = flags.DEFINE_integer("calls", 3, "Calls in a round.")
_TUNED = flags.DEFINE_bool("tuned", False, "Also PyTorch with channels last, bfloat16 and torch.compile.")
_JSON = flags.DEFINE_string("json", None, "File for the figures.")
TOLERANCE = 1e-3


def recipe(config) -> Any:
    """The configuration with stage 1 as the recipe has it."""
    config = config.copy_and_resolve_references()
    stage = base.denoise("random", 62_000)
    stage.prototype_min_pixels = config.stage1.prototype_min_pixels
    config.stage1 = stage
    return config


@dataclasses.dataclass(frozen=True)
class Task:
    """What both compute.

    Attributes:
      config: of the recipe.
      setup: what our step needs, on one device.
      state: train state, with random prototypes.
      batch: random images and labels.
      inputs: the batch in views that are drawn, without dropout.
    """

    config: Any
    setup: steps.Setup
    state: Any
    batch: Any
    inputs: denoise.Inputs


def task_of(config: Any) -> Task:
    """A random step of stage 1 with a configuration's network and sizes."""
    config = recipe(config)
    programs = Programs(config, devices.make_mesh(1))
    model = programs.model().clone(axis_name=None)
    setup = build.setup(config, "stage1", model=model, teacher=None, steps_per_epoch=1000)

    def create(key: jax.Array) -> Any:
        vectors = jax.random.normal(key, (model.classes, model.feature_channels))
        start = prototypes.Prototypes(vectors, jnp.ones(model.classes))
        return build.create_state(setup, key, programs.variables(model, key), start)

    state = jax.jit(create)(jax.random.key(0))
    batch = programs.step("stage1").concrete()[1]
    inputs = jax.jit(lambda s, b: denoise.draw_inputs(s, b, setup))(state, batch)
    inputs = inputs.replace(source_keys=None, weak_keys=None, strong_keys=None, teacher_keys=None)
    return Task(config, setup, state, batch, inputs)


class Peer:
    """Stage 1 in PyTorch, on inputs that are drawn."""

    def __init__(self, task: Task, *, tuned: bool = False):
        setup, state, inputs = task.setup, task.state, task.inputs
        self.stage, self.setup, self.tuned = setup.stage, setup, tuned
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        self.network, *convention = network_of(setup.model, variables)
        self.convention = [values.to(self.device) for values in convention]
        self.teacher = copy.deepcopy(self.network)
        for network in (self.network, self.teacher):
            network.to(self.device).train()
            if tuned:
                network.to(memory_format=torch.channels_last)
                torch.backends.cudnn.benchmark = True  # the quickest algorithm of each convolution
                network.compile_parts()
        self.teacher.requires_grad_(False)
        head = list(getattr(self.network, self.network.head).parameters())
        trunk = [p for name, p in self.network.named_parameters() if not name.startswith(f"{self.network.head}.")]
        groups = [{"params": trunk, "lr": self.stage.backbone_rate}, {"params": head, "lr": self.stage.head_rate}]
        self.optimizer = torch.optim.SGD(groups, momentum=self.stage.momentum, weight_decay=self.stage.weight_decay)
        self.vectors = torch.tensor(np.array(state.prototypes.vectors), device=self.device)
        self.inputs = self.move(inputs)
        self.both = (self.passed(self.network), self.passed(self.teacher))

    def passed(self, network: nn.Module) -> Callable:
        """Images -> features and scores."""

        def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.autocast(self.device, torch.bfloat16, enabled=self.tuned):
                features = network.features((images - self.convention[0]) / self.convention[1])
                return features.float(), network.classify(features).float()

        return run

    def move(self, inputs: denoise.Inputs) -> dict[str, torch.Tensor]:
        """The drawn inputs as PyTorch wants them; images and maps [batch, channels, h, w]."""
        size, grid = self.setup.crop_size, self.setup.target_size
        rows, columns = (
            axis.parts / axis.of_pixel for axis in views.strong._strong_positions(inputs.strong_view, size, grid)
        )
        _, valid = views.strong_map(jnp.zeros((len(rows), *grid, 1)), inputs.strong_view, size)
        arrays = {
            "source": inputs.source_image, "labels": inputs.source_label, "whole": inputs.target_full,
            "weak": inputs.target_weak, "strong": inputs.target_strong, "soft": inputs.soft_label,
            "inside": inputs.inside, "valid": valid,
            "positions": jnp.stack([2 * columns / grid[1] - 1, 2 * rows / grid[0] - 1], -1),
        }  # fmt: skip
        moved = {name: torch.tensor(np.array(array), device=self.device) for name, array in arrays.items()}
        for name in ("source", "whole", "weak", "strong", "soft"):
            moved[name] = moved[name].permute(0, 3, 1, 2).contiguous()
            if self.tuned:
                moved[name] = moved[name].contiguous(memory_format=torch.channels_last)
        moved["labels"] = moved["labels"].long()
        view = jax.device_get(inputs.weak_view)
        stride = self.setup.views.target_stride
        self.crops = np.concatenate([view.scaled_size // stride, view.offset // stride, view.flip[:, None]], 1).tolist()
        whole = self.setup.on_target_grid(inputs.target_full.shape[1:3])
        small = self.setup.model.output_size(inputs.target_full.shape[1:3])
        self.brought_down = [torch.tensor(align_corners_weights(a, b), device=self.device)
                             for a, b in zip(small, whole, strict=True)]  # fmt: skip
        return moved

    def cropped(self, values: torch.Tensor) -> torch.Tensor:
        """Maps of whole images in the weak view, by the released code's convention."""
        height, width = self.setup.target_size
        crops = []
        for value, (h, w, top, left, flip) in zip(values, self.crops, strict=True):
            resized = F.interpolate(value[None], (h, w), mode="bilinear", align_corners=True)[0]
            crop = resized[:, top : top + height, left : left + width]
            crops.append(crop.flip(-1) if flip else crop)
        return torch.stack(crops)

    def distances(self, features: torch.Tensor) -> torch.Tensor:
        """[batch, classes, h, w] to the prototypes."""
        products = torch.einsum("bchw,kc->bkhw", features, self.vectors)
        squares = features.square().sum(1, keepdim=True) - 2 * products + self.vectors.square().sum(1)[:, None, None]
        return squares.clamp(min=1e-12).sqrt()

    def resized(self, values: torch.Tensor) -> torch.Tensor:
        return F.interpolate(values, self.setup.target_size, mode="bilinear", align_corners=True)

    @torch.no_grad()
    def guide(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Distances in the weak view, and class means with their numbers of pixels."""
        features, scores = self.both[1](self.inputs["whole"])
        rows, columns = self.brought_down
        size = (len(rows), len(columns))
        assigned = F.interpolate(scores, size, mode="bilinear", align_corners=True).argmax(1)
        members = F.one_hot(assigned, scores.shape[1]).permute(0, 3, 1, 2).float()
        pixels = members.sum((2, 3))
        sums = torch.einsum("bkhw,bchw->bkc", rows.T @ members @ columns, features)
        pixels = torch.where(pixels >= self.stage.prototype_min_pixels, pixels, 0.0)
        return self.distances(self.cropped(features)), sums / pixels.clamp(min=1)[..., None], pixels

    def step(self) -> dict[str, torch.Tensor]:
        """One step; its losses."""
        c, given = self.stage, self.inputs
        self.optimizer.zero_grad(set_to_none=True)
        _, scores = self.both[0](given["source"])
        scores = F.interpolate(scores, self.setup.crop_size, mode="bilinear", align_corners=True)
        source = F.cross_entropy(scores, given["labels"], ignore_index=IGNORE)
        source.backward()
        distances, means, pixels = self.guide()
        labels = (given["soft"] * (-distances / c.temperature).softmax(1)).argmax(1)
        labels = torch.where(given["inside"], labels, IGNORE)

        _, scores = self.both[0](given["weak"])
        scores = self.resized(scores)
        log_p = scores.log_softmax(1)
        counted = labels != IGNORE
        forward = F.nll_loss(log_p, labels, ignore_index=IGNORE)
        one_hot = F.one_hot(torch.where(counted, labels, 0), scores.shape[1]).permute(0, 3, 1, 2)
        reverse = -(log_p.exp().clamp(1e-7, 1.0) * one_hot.clamp(1e-4, 1.0).log()).sum(1)
        reverse = torch.where(counted, reverse, 0.0).sum() / counted.sum()
        fit, balance = c.ce_weight * forward + c.rce_weight * reverse, -log_p.mean()
        (fit + c.regulariser_weight * balance).backward()

        features, _ = self.both[0](given["strong"])
        student = (-self.distances(self.resized(features)) / c.temperature).log_softmax(1)
        warped = F.grid_sample(distances, given["positions"], padding_mode="border", align_corners=False)
        teacher = (-warped / c.temperature).log_softmax(1)
        terms = (teacher.exp() * (teacher - student)).mean(1)
        consistency = torch.where(given["valid"], terms, 0.0).sum() / given["valid"].sum()
        (c.consistency_weight * consistency).backward()

        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.teacher.parameters()), list(self.network.parameters()), 1.0 - c.ema_momentum
            )
            for mean, count in zip(means, pixels, strict=True):
                moved = c.prototype_momentum * self.vectors + (1 - c.prototype_momentum) * mean
                self.vectors.copy_(torch.where(count[:, None] > 0, moved, self.vectors))
        return {"source_ce": source, "target_fit": fit, "regulariser": balance, "consistency": consistency}

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


class Replayed:
    """A step of a PyTorch contender, recorded as a CUDA graph."""

    def __init__(self, peer: Peer):
        self.peer, self.graph = peer, torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):  # PyTorch asks for three steps on the side before it records
            for _ in range(3):
                peer.step()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            peer.step()

    def step(self) -> None:
        self.graph.replay()

    def wait(self) -> None:
        self.peer.wait()


class Ours:
    """Stage 1 here, on inputs that are drawn or on a batch whose views it draws.

    With `exact`, float32 products have all their digits, which GPUs do not give unasked, and no time is spent on
    finding the quickest programs.
    """

    def __init__(self, task: Task, dtype: str, *, draws: bool = False, exact: bool = False):
        setup = dataclasses.replace(task.setup, model=task.setup.model.clone(dtype=jnp.dtype(dtype)))
        function = denoise.train_step if draws else denoise.update

        def step(state: Any, given: Any):
            return function(state, given, None, setup=setup) if draws else function(state, given, setup=setup)

        self.function, self.exact = jax.jit(step, donate_argnums=0), exact
        self.state, self.given = jax.tree.map(jnp.copy, task.state), task.batch if draws else task.inputs

    @functools.cached_property
    def compiled(self) -> Callable:
        as_it_comes = self.exact and jax.default_backend() == "gpu"
        with jax.default_matmul_precision("highest" if self.exact else None):
            lowered = self.function.lower(self.state, self.given)
            return lowered.compile({"xla_gpu_autotune_level": 0} if as_it_comes else None)

    def step(self) -> dict[str, jax.Array]:
        self.state, self.metrics = self.compiled(self.state, self.given)
        return self.metrics

    def wait(self) -> None:
        jax.block_until_ready(self.metrics)


def time_in_turn(contenders: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds of a step of each, round after round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(_ROUNDS.value + 1):  # the first is to warm up
        for name, contender in contenders.items():
            started = time.monotonic()
            for _ in range(_CALLS.value):
                contender.step()
            contender.wait()
            if round_number:
                seconds[name].append((time.monotonic() - started) / _CALLS.value)
    return seconds


def first_losses(ours: Ours, task: Task) -> dict[str, tuple[float, float]]:
    """Each loss of the first step, here and in PyTorch, both in float32."""
    torch.backends.cudnn.allow_tf32 = False
    here, there = ours.step(), Peer(task).step()
    torch.backends.cudnn.allow_tf32 = True  # as PyTorch has it
    return {name: (float(here[name]), value.item()) for name, value in there.items()}


def main(_: list[str]) -> None:
    task = task_of(_CONFIG.value)
    dtype = task.config.model.dtype
    checked = Ours(task, "float32", exact=True)
    ours = {f"ours, {dtype}": Ours(task, dtype), f"ours, {dtype}, with drawing views": Ours(task, dtype, draws=True)}
    contenders = {"PyTorch, eager float32": Peer(task)}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        compiling = [pool.submit(lambda x: x.compiled, x) for x in (checked, *ours.values())]
        if _TUNED.value:
            contenders["PyTorch, tuned"] = Peer(task, tuned=True)
            contenders["PyTorch, tuned"].step()
        for program in compiling:
            program.result()
    for name, (here, there) in first_losses(checked, task).items():
        print(f"  {name:<12} ours {here:.6f}, PyTorch {there:.6f}")
        if not abs(here - there) <= TOLERANCE * max(abs(there), 1e-3):
            raise SystemExit(f"the two do not agree on {name} to {TOLERANCE:g}: nothing is timed")
    if _TUNED.value and torch.cuda.is_available():
        contenders["PyTorch, tuned, CUDA graph"] = Replayed(contenders["PyTorch, tuned"])
    contenders |= ours
    seconds = time_in_turn(contenders)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    least = Minimum(task.config, Programs(task.config, devices.make_mesh(1))).of("stage1") * task.config.batch_size
    device = jax.devices()[0].device_kind
    for name, median in medians.items():
        use = f", {least / median / PEAKS[device] / 1e12:.1%} of peak" if device in PEAKS else ""
        print(f"{name:<36}{median * 1e3:9.1f} ms{use}; ours takes {medians[f'ours, {dtype}'] / median:.2f} of its time")
    if _JSON.value:
        with open(_JSON.value, "w") as file:
            json.dump({"device": device, "seconds": seconds, "medians": medians}, file, indent=2)


if __name__ == "__main__":
    app.run(main, flags_parser=paths.parse)
