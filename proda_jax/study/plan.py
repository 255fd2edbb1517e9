"""What a study consists of: experiments, one for each seed, and rows that point at their stages."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import ml_collections

from proda_jax.report.paper import TABLES
from proda_jax.report.paper import Row as PaperRow
from proda_jax.run import settings
from proda_jax.system.refusals import choose, refuse

INPUTS = ("init", "labels_from", "teacher", "source_images")  # settings of a stage that name the stages it needs
SHOWN = ("classes", "costs", "curves", "label_quality", "predictions", "pictures", "features")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a study's table.

    Attributes:
      label: what it is called.
      stage: whose last network it scores; of several, 'minent+advent', the average of what they say.
      paper: the paper's mIoU, percent; None where it gives none, or its text does not settle which number it is.
      variant: of the configuration, '' where there is but one; see `Plan.variants`.
      over: number of the row that its gain is over.
      published: what else the paper gives of it, by class and over 13 classes, where it is one of Tables 1 and 2.
    """

    label: str
    stage: str
    paper: float | None = None
    variant: str = ""
    over: int = 0
    published: PaperRow | None = dataclasses.field(default=None, hash=False)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages whose networks it scores."""
        return tuple(self.stage.split("+"))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study.

    Attributes:
      name: of the folder of its results.
      title: of its table.
      paper: the paper's table or figure; '' where it has none.
      rows: of the table.
      seeds: one experiment of each variant for each of them.
      variants: configurations by name; more than one where what is varied is of all stages alike, such as the network.
      notes: what a reader has to know to judge it.
      show: what its page shows besides the scores, of `SHOWN`.
      grid: where rows are pairs of values of two settings, what both are in the row of a stage; empty otherwise.
      picture_rows: stages of the rows whose predictions are shown; empty for those that the page chooses.
    """

    name: str
    title: str
    paper: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    variants: dict[str, ml_collections.ConfigDict]
    notes: tuple[str, ...] = ()
    show: tuple[str, ...] = ()
    grid: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    picture_rows: tuple[str, ...] = ()

    def base(self, row: Row) -> Row:
        """The row that a row's gain is over."""
        return self.rows[row.over]

    @property
    def paper_base(self) -> Row | None:
        """The row that the paper's gains are over: what gains are over here, or else the first that it has."""
        bases = [self.base(row) for row in self.rows]
        return next((row for row in (*bases, *self.rows) if row.paper is not None), None)

    @property
    def pieces(self) -> list[tuple[str, ml_collections.ConfigDict]]:
        """The experiments: (folder within the study's workdir, configuration)."""
        return [
            (folder_of(seed, variant), with_seed(config, seed))
            for seed in self.seeds
            for variant, config in self.variants.items()
        ]


def inputs_of(config: ml_collections.ConfigDict, name: str) -> list[str]:
    """The stages that a stage starts from or learns from; none where its network is taken from a file."""
    if config[name].get("weights") is not None:
        return []
    named = (config[name].get(key) for key in INPUTS)
    return [other for other in named if isinstance(config.get(other or ""), ml_collections.ConfigDict)]


def needed(config: ml_collections.ConfigDict, wanted: Sequence[str]) -> tuple[str, ...]:
    """The wanted stages and those that they depend on, in an order in which they can run."""
    found: dict[str, None] = {}

    def add(name: str) -> None:
        for other in inputs_of(config, name):
            add(other)
        found.setdefault(name)

    for several in wanted:
        for name in several.split("+"):
            add(name)
    return tuple(found)


def folder_of(seed: int, variant: str) -> str:
    """Where the experiment of a seed lies within the study's workdir."""
    return f"seed{seed}/{variant}" if variant else f"seed{seed}"


def with_seed(config: ml_collections.ConfigDict, seed: int) -> ml_collections.ConfigDict:
    """The configuration with another seed."""
    c = config.copy_and_resolve_references()
    c.seed = seed
    return c


def plan(config: ml_collections.ConfigDict, seeds: Sequence[int] | None = None) -> Plan:
    """The study that a configuration describes, checked.

    Args:
      config: with a section `study`, see configs/studies/common.py; its `stages` may leave rows out.
      seeds: in place of those of the section.

    Raises:
      ValueError: it has no such section, or something in it cannot work.
    """
    if "study" not in config:
        raise ValueError("--mode=study needs a configuration with a section 'study', such as "
                         "configs/studies/table3.py:demo, or --sweep with any other")  # fmt: skip
    s = config.study
    wanted = _wanted(config)
    variants = _variants(config, wanted)
    rows = tuple(_rows(s, wanted, variants))
    stages = [row.stage for row in rows]
    for shown in s.show:
        choose("study.show", shown, SHOWN)
    for stage in s.get("picture_rows", ()):
        choose("study.picture_rows", stage, [stage for _, stage, *_ in s.rows])
    seeds = chosen_seeds(s.seeds if seeds is None else seeds)
    grid = {stage: (row, column) for stage, row, column in s.get("grid", ())}
    return check(Plan(s.name, s.title, s.paper, rows, seeds, variants, tuple(s.notes), tuple(s.show), grid,
                      tuple(stage for stage in s.get("picture_rows", ()) if stage in stages)))  # fmt: skip


def _wanted(config: ml_collections.ConfigDict) -> list[tuple]:
    """The rows of a study but those of stages that `stages` leaves out; stages of other variants follow from rows."""

    def left_out(stage: str) -> bool:
        return stage not in config.stages and isinstance(config.get(stage), ml_collections.ConfigDict)

    rows = [row for row in config.study.rows if any(row[3:]) or not any(map(left_out, row[1].split("+")))]
    if not rows:
        refuse("stages", config.stages, "a stage that a row of the study scores: "
               + ", ".join(dict.fromkeys(row[1] for row in config.study.rows)))  # fmt: skip
    return rows


def _variants(config: ml_collections.ConfigDict, rows: Sequence[tuple]) -> dict[str, ml_collections.ConfigDict]:
    """The configurations of a study's rows: as it is, and with what `study.variants` changes for all of its stages."""
    given = {"": ()} | dict(config.study.get("variants", ()))
    used: dict[str, list[str]] = {}
    for _, stage, _, *variant in rows:
        choose("a variant in study.rows", name := variant[0] if variant else "", given)
        used.setdefault(name, []).append(stage)
    found = {}
    for name, stages in used.items():
        found[name] = config
        if name:
            found[name] = config.copy_and_resolve_references()
            with found[name].unlocked():
                found[name].update_from_flattened_dict(dict(given[name]))
                for stage in stages:
                    for part in stage.split("+"):
                        choose("study.rows", part, found[name])
                found[name].stages = needed(found[name], stages)
    return found


def _rows(
    s: ml_collections.ConfigDict, rows: Sequence[tuple], variants: Mapping[str, ml_collections.ConfigDict]
) -> Iterator[Row]:
    """Rows of a study's section `s`; each one's gain is over `gain_over` of its own variant."""
    stages = [(row[3] if len(row) > 3 else "", row[1]) for row in rows]
    table = TABLES.get(s.paper, {})
    for (label, stage, theirs, *_), (variant, _) in zip(rows, stages, strict=True):
        for part in stage.split("+"):
            choose("study.rows", part, variants[variant].stages)
        choose("study.gain_over", s.gain_over, [name for of, name in stages if of == variant])
        if isinstance(theirs, str):
            choose(f"what {s.paper} calls the row {label!r} (in study.rows)", theirs, table)
        published = table[theirs] if isinstance(theirs, str) else None
        over = stages.index((variant, s.gain_over))
        yield Row(label, stage, published.miou if published else theirs, variant, over, published)


def check(found: Plan) -> Plan:
    """Checks every configuration of a study, and returns it."""
    for config in found.variants.values():
        settings.check(config)
    return found


def chosen_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Seeds, if each is one and named once."""
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        refuse("study.seeds", tuple(seeds), "different whole numbers from 0, such as (0, 1, 2)")
    return tuple(seeds)
