"""The steps of all stages: what they need, and their programs, which are compiled ahead for the next stage."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from proda_jax.adaptation.stages import build, kinds, prepare
from proda_jax.adaptation.stages.setup import Setup
from proda_jax.run import ahead
from proda_jax.run.networks import Networks
from proda_jax.run.prepared import Prepared
from proda_jax.run.sources import Sources
from proda_jax.run.workdir import Workdir
from proda_jax.system import devices, memory


class Steps:
    """The steps of all stages.

    Attributes:
      ahead: what is compiled in the background.
      compiles_ahead: whether anything is.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, workdir: Workdir, sources: Sources, networks: Networks,
        prepared: Prepared, compiles_ahead: bool,
    ):  # fmt: skip
        """Compiles nothing yet.

        Args:
          config: checked settings.
          workdir: says which stages are complete.
          sources: the data sets.
          networks: of the stages.
          prepared: makes their pseudo labels.
          compiles_ahead: whether the next stage's programs are compiled while one trains, where that is possible.
        """
        self.config, self.workdir, self.sources, self.networks = config, workdir, sources, networks
        self.prepared, self.mesh = prepared, prepared.mesh
        self.ahead, self.compiles_ahead = ahead.Ahead(), compiles_ahead and ahead.possible(config)

    def setup(self, name: str) -> Setup:
        """What the steps of a stage need."""
        steps_per_epoch = max(len(self.sources.open("target")) // build.batch_size(self.config, name), 1)
        teacher = kinds.of(self.config[name]).teacher
        return build.setup(
            self.config, name, model=self.networks.model(name),
            teacher=self.networks.model(self.config[name][teacher]) if teacher else None,
            steps_per_epoch=steps_per_epoch,
        )  # fmt: skip

    def step(self, setup: Setup) -> Callable:
        """The mapped train step of a stage, (state, batch, teacher) -> (state, metrics); takes over the state's memory.
        """
        step = functools.partial(build.train_step(setup.stage.kind), setup=setup)
        return devices.map_step(step, self.mesh, "rbr", "rr", donate=(0,))

    def compiled(self, name: str, setup: Setup, *arguments: Any) -> Callable:
        """A stage's step, compiled for arguments like these; the next stage's is compiled meanwhile."""
        self.ahead.wait((name, "step"))
        step = self.step(setup).lower(*arguments).compile()
        if self.compiles_ahead:
            self.compile_ahead(after=name)
        return step

    def compile_ahead(self, after: str) -> None:
        """Begins to compile what the stage after this one needs first: what makes its pseudo labels, and its step."""
        later = self.config.stages[self.config.stages.index(after) + 1 :]
        name = next((other for other in later if self.workdir.result(other) is None), None)
        if name is None or not ahead.foreseen(self.config[name]):
            return
        setup = self.setup(name)  # here, as another thread would make one of its own
        self.ahead.begin((name, "labels"), lambda: self.labels_ahead(name))
        self.ahead.begin((name, "step"), lambda: self.step_ahead(name, setup))

    def step_ahead(self, name: str, setup: Setup) -> None:
        """Compiles the step of a stage that is `ahead.foreseen`."""
        self.step(setup).lower(*self.step_shapes(name, setup)).compile()

    def forget(self, name: str) -> None:
        """Gives up the step of a stage that is complete, unless a later one has the same: 200 MB, on a CPU."""
        kind, later = self.config[name].kind, self.config.stages[self.config.stages.index(name) + 1 :]
        step = self.step(self.setup(name))
        alike = (other for other in later if self.config[other].kind == kind)
        if not any(self.step(self.setup(other)) is step for other in alike):
            step.clear_cache()
            memory.give_back()

    def labels_ahead(self, name: str) -> None:
        """Compiles what makes the pseudo labels of a stage, if it needs some."""
        if kinds.of(self.config[name]).pseudo_labels:
            make, arguments = self.label_maker_shapes(name)
            make.lower(*arguments).compile()

    def label_maker_shapes(self, name: str) -> tuple[Callable, tuple[Any, Any]]:
        """What makes the pseudo labels of a stage that is `ahead.foreseen`, and the shapes of what it takes."""
        needed = kinds.of(self.config[name]).pseudo_labels
        teacher, recipe = self.config[name][needed.made_by], prepare.RECIPES[needed.name](self.config[name])
        variables = self.networks.abstract_variables(self.networks.model(teacher))
        images = (self.prepared.evaluation_batch, *self.sources.open("target").image_size, 3)
        images = ahead.placed(jax.ShapeDtypeStruct(images, np.uint8), devices.split(self.mesh))
        return self.prepared.label_maker(teacher, recipe), (variables, images)

    def step_shapes(self, name: str, setup: Setup) -> tuple[Any, Any, Any]:
        """Shapes, types and placement of what the step of a stage takes that is `ahead.foreseen`."""
        stage, kind, size = self.config[name], kinds.of(self.config[name]), build.batch_size(self.config, name)
        variables, made, given = self.networks.abstract_variables(setup.model), None, None
        if kind.pseudo_labels:
            make, arguments = self.label_maker_shapes(name)
            label = jax.eval_shape(make, *arguments)
            made = jax.ShapeDtypeStruct((size, *label.shape[1:]), label.dtype)
        if kind.teacher:
            given = self.networks.abstract_variables(setup.teacher)
        elif kind.frozen_start(stage):
            given = variables
        labelled, target = self.sources.labelled(), self.sources.open("target")
        batch = ahead.batch_shapes(stage, size, labelled and labelled.image_size, target.image_size, made)
        state = ahead.placed(ahead.state_shapes(setup, variables), devices.replicated(self.mesh))
        return state, ahead.placed(batch, devices.split(self.mesh)), given
