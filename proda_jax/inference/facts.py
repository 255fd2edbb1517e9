"""What a run noted of a network, for those who get the network without the run."""

from collections.abc import Iterator
from typing import Any

from etils import epath

from proda_jax.adaptation.stages import kinds
from proda_jax.data.checks import first_of
from proda_jax.models.weights import pretrained_folder
from proda_jax.run import provenance
from proda_jax.run.card import Card
from proda_jax.run.workdir import Workdir
from proda_jax.system.files import read_json


def facts(origin: str, card: Card) -> dict[str, Any]:
    """What is known of a network beside its card, as JSON values; whatever nobody noted is left out.

    Args:
      origin: where it was found, see `Segmenter`: in a workdir, or in a folder that was written with such facts.
      card: of the network.

    Returns:
      'step' of the checkpoint; 'scores' (each as `evaluate.summary`, with 'data', the images); 'stages', names of those
      that it learns from, in their order, itself the last; 'target_labels', whether one of them uses such; their
      'settings', {'section.setting': value}; 'license'.

    Raises:
      ValueError: a note is damaged.
    """
    path = epath.Path(origin)
    if pretrained_folder.is_pretrained(path):
        return pretrained_folder.read_card(path).get("about", {})
    if not (path.name.isdigit() and path.parent.name == "checkpoints" and (path.parents[1] / provenance.NAME).exists()):
        return {}
    workdir = Workdir(path.parents[2])
    step, stages = int(path.name), list(_lineage(workdir, card.stage))
    settings = {key: value for notes in stages for key, value in notes[1].items()}
    return {
        "step": step,
        "scores": list(_scores(workdir, card.stage, step)),
        "stages": [name for name, _ in stages],
        "target_labels": any(kind.target(own) == "labels" for kind, own in (_stage(*notes) for notes in stages)),
        "settings": {key: _without_folders(key, value) for key, value in settings.items()},
    }


def _lineage(workdir: Workdir, stage: str) -> Iterator[tuple[str, dict]]:
    """(name, settings) of the stages that a stage learns from, however far back, and of itself, each once."""
    done: set[str] = set()

    def visit(name: Any) -> Iterator[tuple[str, dict]]:
        note = workdir.folder(str(name)) / provenance.NAME
        if name in done or not note.exists():
            return
        done.add(name)
        settings = read_json(note, "delete the stage's folder to run it again")
        kind, _ = _stage(name, settings)
        for key in ("init", kind.teacher, kind.pseudo_labels and kind.pseudo_labels.made_by):
            yield from visit(settings.get(f"{name}.{key}"))
        yield name, settings

    yield from visit(stage)


def _stage(name: str, settings: dict) -> tuple[kinds.Kind, dict]:
    """The kind of a stage, and its own section of the settings."""
    section = {key.removeprefix(f"{name}."): value for key, value in settings.items() if key.startswith(f"{name}.")}
    return kinds.of(section), section


def _scores(workdir: Workdir, stage: str, step: int) -> Iterator[dict]:
    """Scores of a checkpoint: in its stage's result, and in the last evaluation of the workdir."""
    result, evaluated = workdir.result(stage) or {}, workdir.path / "evaluation.json"
    found = [entry for entry in (result.get("last"), result.get("best")) if entry and entry["step"] == step]
    if found and found[0].get("miou") is not None:
        data = first_of(provenance.read_configuration(workdir.path).data, "validation")
        chosen = {"chosen": True} if found[0] == result["best"] != result["last"] else {}
        yield {"data": f"{data.name}, {data.split}"} | chosen | found[0]
    if evaluated.exists():
        scores = read_json(evaluated, "delete it, and evaluate again")
        if (scores.get("stage"), scores.get("step")) == (stage, step):
            yield {key: value for key, value in scores.items() if key not in ("task", "network", "stage", "checkpoint")}


def _without_folders(key: str, value: Any) -> Any:
    """A setting's value; of a file of weights its name, as where it lies is of no use to others."""
    return epath.Path(value).name if key.endswith("weights") and isinstance(value, str) else value
