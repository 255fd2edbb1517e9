"""The page of a run: what it shows in which order, and its HTML."""

import pathlib
import re
from collections.abc import Callable

import jinja2
import markupsafe
from etils import epath

from proda_jax.report import charts, embedding, label_quality, matrices, paper, pictures, tables
from proda_jax.report.content import Figure, Folder, Legend, Note, Section, Table, Tiles, gain, number
from proda_jax.report.run import Run, compared, read
from proda_jax.report.score_tables import duration
from proda_jax.system.files import write_atomically

FOLDER = "report"
# every subject: (run, folder of the report) -> section
SUBJECTS = (
    tables.scores, charts.curves, label_quality.label_quality, pictures.pseudo_labels, pictures.qualitative,
    embedding.features, matrices.confusion, matrices.prototypes, tables.settings, tables.machine,
)  # fmt: skip


def write(workdir: epath.PathLike) -> epath.Path:
    """Writes the report of a run, of whatever its workdir holds by now.

    Args:
      workdir: of the run; may be in a bucket.

    Returns:
      Path of the page, <workdir>/report/index.html.

    Raises:
      ValueError: the folder does not exist or holds nothing of a run.
    """
    run = read(workdir)
    folder = Folder(run.path / FOLDER)
    chart = charts.stages_figure(run, folder)
    sections = [_made(subject, run, folder) for subject in SUBJECTS]
    missing = _missing(run, sections)
    page = render(f"ProDA: {run.task}", headline(run), summary(run), chart, sections, missing)
    path = folder.path / "index.html"
    write_atomically(path, page)
    return path


def _made(subject: Callable[[Run, Folder], Section], run: Run, folder: Folder) -> Section:
    """A subject's section; where files hold what no version of ours writes, a section that says so."""
    try:
        return subject(run, folder)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        title = subject.__name__.replace("_", " ").capitalize()
        text = f"{title}: cannot be made of what lies in the workdir ({type(error).__name__}: {error})."
        return Section(subject.__name__, title, [Note(text, missing=True)])


def headline(run: Run) -> str:
    """What came out, in one sentence."""
    found = compared(run.scored)
    if not found:
        return "No scores yet." if run.stages else "No stage has begun."
    first, last = found[0][1], found[-1][1]
    score = f"{number(last.last['miou'])} mIoU after {last.name}"
    if first is last:
        return f"{score}."
    return f"{score}, {gain(last.last['miou'] - first.last['miou'])} over {first.name} ({number(first.last['miou'])})."


def summary(run: Run) -> list[tuple[str, str]]:
    """The facts below the headline: (what, value)."""
    complete = sum(stage.result is not None for stage in run.stages)
    facts = [("task", run.task)]
    source, target = (_data_sets(run, role) for role in ("source", "target"))
    if target:
        facts.append(("data", f"{source} to {target}" if source else f"{target}, without a source"))
    if run.space:
        facts.append(("classes", f"{len(run.space)} ({run.space.name})"))
    facts.append(("stages complete", f"{complete} of {len(run.stages) + len(run.waiting)}"))
    facts += gap_closed(run)
    facts.append(("time", duration(sum(stage.seconds or 0.0 for stage in run.stages))))
    if run.seed is not None:
        facts.append(("seed", str(run.seed)))
    devices = dict.fromkeys(filter(None, map(tables.device_of, run.stages)))
    if devices:
        facts.append(("device", ", ".join(devices)))
    task = paper.task(run.settings)
    if task:
        facts.append(("paper", f"{task[1]['stage 3'].miou} mIoU ({task[0]}, {task[1]['stage 3'].source})"))
    return facts


def _data_sets(run: Run, role: str) -> str:
    """The data sets of a role and their splits; '' where there is none, or nobody knows."""
    begins = [f"data.{role}", *(f"data.{role}[{i}]" for i in range(100))]
    there = [begin for begin in begins if run.settings.get(f"{begin}.name") not in (None, "none")]
    return " + ".join(f"{run.settings[f'{b}.name']} {run.settings.get(f'{b}.split', '')}".strip() for b in there)


def gap_closed(run: Run) -> list[tuple[str, str]]:
    """What the method gains over the source alone, as a share of what the target's labels gain."""
    oracles = [stage for stage in run.scored if stage.role == "oracle"]
    chosen = [stage for _, stage in compared(run.scored)]
    if not oracles or len(chosen) < 2 or chosen[0].role != "source":
        return []
    low, ours, high = (stage.last["miou"] for stage in (chosen[0], chosen[-1], oracles[-1]))
    return [(f"gap closed to {oracles[-1].name}", f"{100 * (ours - low) / (high - low):.0f} %")] if high > low else []


def _missing(run: Run, sections: list[Section]) -> list[str]:
    """What is not there, for the top of the page."""
    missing = [f"{stage.name} is not complete: step {stage.steps:,} of {stage.planned_steps:,}."
               for stage in run.stages if not stage.result]  # fmt: skip
    if run.waiting:
        missing.append(f"Not begun: {', '.join(run.waiting)}.")
    missing += [text for section in sections for text in section.missing]
    return missing + [f"Damaged: {problem}." for problem in run.problems]


def render(
    title: str, headline: str, facts: list[tuple[str, str]], chart: Figure | None, sections: list[Section],
    missing: list[str],
) -> str:  # fmt: skip
    """The page as one HTML file that needs nothing else."""
    here = pathlib.Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["breakable"] = breakable
    kinds = {Note: "note", Table: "table", Figure: "figure", Tiles: "tiles", Legend: "legend"}
    return environment.get_template("page.html").render(
        title=title, headline=headline, facts=facts, chart=chart, sections=sections, missing=missing,
        style=(here / "page.css").read_text(), kind=lambda block: kinds[type(block)],
    )  # fmt: skip


def breakable(text: str) -> markupsafe.Markup:
    """A name such as 'stage1.jitter.brightness', which a narrow table may break after its dots."""
    return markupsafe.Markup(re.sub(r"(?<=\.)(?=\w)", "<wbr>", str(markupsafe.escape(text))))
