"""A network's card: what it takes to use a checkpoint without the configuration that it was trained with."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from proda_jax.adaptation.stages import build
from proda_jax.data.checks import data_sets, first_of
from proda_jax.data.label_spaces import LabelSpace, label_space, own_ids
from proda_jax.models.deeplab import NO_AUXILIARY, SegmentationNetwork
from proda_jax.models.heads import HEADS
from proda_jax.models.translator import TRANSLATION

_ROLES = ("target", "validation", "source")  # whose label values are asked for, in this order
# of networks, which stages choose
_PARTS = ("head", "auxiliary_head", "detail_size", "projection_channels", "foundation_channels")
# where training started says nothing about the network
_FILES = ("imagenet_weights", "self_supervised_weights", "weights_input")


@dataclasses.dataclass(frozen=True)
class Card:
    """What every checkpoint says of its network.

    Attributes:
      model: the settings of `config.model`.
      extra_norm: whether one more batch normalisation follows the backbone.
      label_space: name of the classes' label space.
      classes: name of each train id.
      colors: RGB colour of each train id in pictures, 0 to 255.
      image_size: (height, width) of the target images that it was trained for, pixels.
      task: what the configuration calls its task.
      stage: the stage that the network is of, or the file that it was taken from.
      label_ids: the value of each train id in the label files of its target's data set; None: these hold colours, or it
        was not noted.
      value_range: values that are black and white in its target's images of more than 8 bits; (): the upper 8 of 16.
    """

    model: Mapping[str, Any]
    extra_norm: bool
    label_space: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    image_size: tuple[int, int]
    task: str
    stage: str
    label_ids: tuple[int, ...] | None = None
    value_range: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        config: ml_collections.ConfigDict,
        stage: str,
        *,
        extra_norm: bool,
        network: SegmentationNetwork | None = None,
    ) -> "Card":
        """The card of a network of this configuration; `network`, where it may have other parts than that says."""
        data = config.data
        space = label_space(data.label_space, data.classes, data.colors)
        known = [one for role in _ROLES for one in data_sets(data, role).values()]
        return cls(
            model={name: value for name, value in config.model.items() if name not in _FILES}
            | {"auxiliary_head": config.model.get("auxiliary_head", NO_AUXILIARY)}
            | ({} if network is None else {part: getattr(network, part) for part in _PARTS if hasattr(network, part)}),
            extra_norm=extra_norm,
            label_space=space.name,
            classes=space.classes,
            colors=tuple(tuple(color) for color in space.colors.tolist()),
            image_size=tuple(first_of(data, "target").image_size),
            task=config.task,
            stage=stage,
            label_ids=own_ids(space, [(one.name, one.label_values) for one in known]),
            value_range=tuple(first_of(data, "target").get("value_range") or ()),
        )

    @classmethod
    def from_json(cls, held: Mapping[str, Any], path: object) -> "Card":
        """The inverse of `as_json`.

        Raises:
          ValueError: something is missing; `path` says where.
        """
        fields = dataclasses.fields(cls)
        if missing := [f.name for f in fields if f.name not in held and f.default is dataclasses.MISSING]:
            raise ValueError(f"the card of {path} lacks {', '.join(missing)}: it was written by another version; name "
                             "the configuration it was trained with as --config")  # fmt: skip
        values = {f.name: held[f.name] for f in fields if f.name in held}
        values["colors"] = tuple(map(tuple, values["colors"]))
        values.setdefault("label_ids", own_ids(label_space(values["label_space"], values["classes"])))
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def check_against(self, config: ml_collections.ConfigDict | None, path: object) -> None:
        """Refuses a configuration that says something else of the network than its card, which counts.

        Raises:
          ValueError: what differs; `path` is the network's.
        """
        if config is None:
            return
        given, own = Card.of(config, self.stage, extra_norm=self.extra_norm).as_json(), self.as_json()
        settings = {f"model.{key}": (given["model"][key], own["model"][key]) for key in given["model"]
                    if key in own["model"] and key not in _PARTS}  # fmt: skip
        settings |= {f"data.{key}": (given[key], own[key]) for key in ("label_space", "classes")}
        settings |= {f"data.target.{key}": (given[key], own[key]) for key in ("image_size", "value_range")}
        for name, (there, here) in settings.items():
            if there != here:
                raise ValueError(f"{path} says itself what network it holds, with {name} = {here}, and --config says "
                                 f"{there}: leave --config out, or train with it")  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """The card as plain lists, numbers and strings."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def space(self) -> LabelSpace:
        """The classes and their colours."""
        return LabelSpace(self.label_space, self.classes, np.array(self.colors, np.uint8).reshape(-1, 3))

    def network(self) -> SegmentationNetwork:
        """The network, to be applied on one device.

        Raises:
          ValueError: it labels nothing.
        """
        head = self.model["head"]
        if head == TRANSLATION or not HEADS[head].segments:
            role = "translation" if head == TRANSLATION else "pretraining"
            raise ValueError(f"stage {self.stage!r} is {role}, whose network labels nothing: name another --stage")
        model = ml_collections.ConfigDict(dict(self.model))
        return build.network(model, len(self.classes), extra_norm=self.extra_norm, axis_name=None)
