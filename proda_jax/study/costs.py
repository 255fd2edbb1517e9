"""What the rows of a study cost: steps, time and memory of the stages that a row needs after the start of all rows."""

import dataclasses
from collections.abc import Container, Mapping, Sequence

from etils import epath

from proda_jax.report.compare import mean_and_spread
from proda_jax.run.workdir import Workdir
from proda_jax.study.plan import Plan, Row, folder_of, needed

TIMES = ("preparing_seconds", "compiling_seconds", "repeated_seconds")
SIZES = ("step_bytes", "device_bytes", "process_bytes")
MEASURES = ("seconds", *TIMES, "restarts", *SIZES)


@dataclasses.dataclass(frozen=True)
class RowCost:
    """What a row costs after the start.

    Attributes:
      stages: that it needs after the start, in an order in which they can run.
      steps: of all of these.
      seeds: by seed, of those whose stages are all complete, what was measured (`MEASURES`); None where nobody knows.
        Times are sums over the stages: 'seconds' of steps, with compiling and evaluating, 'preparing_seconds' of what
        they need before, 'compiling_seconds', which are among the first, and 'repeated_seconds' of steps that were
        lost and taken again, which are in none of the others. 'restarts' counts how often they were gone on with after
        a stop. Sizes are the largest over the stages, see `proda_jax.run.cost`.
    """

    stages: tuple[str, ...]
    steps: int
    seeds: Mapping[int, Mapping[str, float | None]]

    def mean_and_spread(self, what: str) -> tuple[float | None, float | None]:
        """Of a measure over seeds, of those that know it."""
        return mean_and_spread([found[what] for found in self.seeds.values() if found[what] is not None])

    def most(self, what: str) -> float | None:
        """The largest value of a measure over seeds; None if one of them does not know it, or there are none."""
        found = [measured[what] for measured in self.seeds.values()]
        return None if None in found else max(found, default=None)


def start(plan: Plan) -> set[tuple[str, str]]:
    """The stages that all rows need, (variant, stage), of each variant that has a row of its own which gains are over;
    none where that would be all that there are."""
    found: set[tuple[str, str]] = set()
    for variant in plan.variants:
        rows = [row for row in plan.rows if row.variant == variant]
        if any(plan.base(row).variant != variant for row in rows):
            return set()
        stages = [{(variant, stage) for stage in _needed(plan, row)} for row in rows]
        common = set.intersection(*stages)
        found |= set() if common == set.union(*stages) else common
    return found


def of_row(plan: Plan, row: Row, before: Container[tuple[str, str]], workdir: epath.PathLike) -> RowCost:
    """What a row has cost by now after the start, the stages `before`."""
    config = plan.variants[row.variant]
    stages = tuple(stage for stage in _needed(plan, row) if (row.variant, stage) not in before)
    trained = [stage for stage in stages if config[stage].get("weights") is None]
    seeds = {}
    for seed in plan.seeds:
        experiment = Workdir(epath.Path(workdir) / folder_of(seed, row.variant))
        results = [experiment.result(stage) for stage in stages]
        if None not in results:
            seeds[seed] = _measured([result for result in results if result["name"] in trained], results)
    return RowCost(stages, sum(config[stage].steps for stage in trained), seeds)


def _needed(plan: Plan, row: Row) -> tuple[str, ...]:
    config = plan.variants[row.variant]
    return tuple(stage for stage in needed(config, [row.stage]) if stage in config.stages)


def _measured(trained: Sequence[Mapping], results: Sequence[Mapping]) -> dict[str, float | None]:
    """The measures of a row from the results of its stages, and of those of them that were trained."""
    costs = [result.get("cost", {}) for result in trained]  # older versions noted none

    def over(combined, values: list) -> float | None:
        return None if None in values else combined(values)

    found = {"seconds": over(sum, [result.get("seconds") for result in results])}
    found |= {what: over(sum, [cost.get(what) for cost in costs]) for what in TIMES}
    starts = [cost.get("starts") for cost in costs]
    found["restarts"] = over(lambda values: sum(values) - len(values), starts)
    return found | {what: over(lambda values: max(values, default=None), [cost.get(what) for cost in costs])
                    for what in SIZES}  # fmt: skip
