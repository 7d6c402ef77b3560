"""`ahmf report STUDY`: a study's page, and the same as Markdown with its pictures and as LaTeX."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from experiments import config as configs
from experiments.comparison import escape
from experiments.report.make import Places, write
from experiments.report.markdown import MARK
from experiments.report.page import assemble
from experiments.studies import best, charts, levels, outcome, pictures, tables
from experiments.studies.answers import answers
from experiments.studies.charts import Chart, Parallel, Section
from experiments.studies.outcome import Findings
from experiments.studies.standing import Entry, Standing, read
from experiments.studies.study import OBJECTIVES, Study
from experiments.studies.tables import Table

SCRIPTS = ("data.js", "charts.js", "page.js", "study.js")
HEIGHT, ROOM, ENTRY = 340, 130, 26  # pixels: of a chart; of one with many names, without them, and each of them
DIMENSION = 110  # pixels: the width of an axis of the parallel coordinates, at least
QUESTIONS = {
    "levels": "How many levels does the network need, the paper's m: what does each bring, and what does it cost?",
    "search": "With which settings is it best?",
}


def report_study(study: Study, out: Path) -> Places:
    """Writes the report of a study, as it stands now; what an earlier report left there is replaced.

    Args:
      study: which; its runs are linked where its folder is found.
      out: the page; the rest gets its name with other endings.

    Raises:
      InputError: the storage cannot be read, or a place cannot be written.
    """
    places = Places(out)
    places.check()
    standing = read(study)
    found = findings(standing)
    made = overview(standing, found.tables, linked(study, out.parent))
    drawn = charts.sections(standing)

    def text(folder: Path, link: str) -> str:
        return markdown(standing, found, made, drawn, folder, link)

    latex = [
        tables.latex(table, f"{title(standing)}: {table.title}") for table in found.tables or made[:1] if table.rows
    ]
    write(places, html(standing, found, made, drawn), text, "\n\n".join(latex) + "\n" * bool(latex))
    return places


def title(standing: Standing) -> str:
    """Of the report."""
    return f"Study {standing.study.name}"


def question(standing: Standing) -> str:
    """What the study asks."""
    spec = standing.study.spec
    return answers(spec).QUESTION if spec.kind == "ablation" else QUESTIONS[spec.kind]


def findings(standing: Standing) -> Findings:
    """What the study found."""
    unit = standing.unit
    if standing.study.spec.kind == "levels":
        of = levels.rows(standing)
        costs = [outcome.how_measured(row.cost) for row in of if row.cost][:1]
        said = [*levels.sentences(of), *levels.not_measured(of), *costs]
        return Findings([levels.brings(of, unit), levels.takes(of)], said)
    if standing.study.spec.kind == "ablation":
        return answers(standing.study.spec).findings(standing)
    return Findings([], best.sentences(standing))


def overview(standing: Standing, found: Sequence[Table], link: Callable[[Entry], str]) -> list[Table]:
    """The report's tables: the first is what was found."""
    done = tables.best(standing)
    others = [t for t in standing.trials if t not in done and t.state != "waiting"]
    every = tables.trials(standing, [*done, *others], link)
    rest = [table for table in (tables.at_work(standing), tables.ended(standing)) if table.rows]
    return [*found, every, *rest]


def linked(study: Study, page: Path) -> Callable[[Entry], str]:
    """Where a trial's run is, seen from the page; "" where it is not found."""

    def link(trial: Entry) -> str:
        run = study.run_folder(trial.number)
        return quote(Path(os.path.relpath(run, page)).as_posix()) if run.is_dir() else ""

    return link


def asked(standing: Standing) -> list[tuple[str, str]]:
    """What the study asks and how it answers, by name."""
    spec = standing.study.spec
    config, data, measured = spec.config, spec.config.data, spec.measured
    where = measured.dataset or f"{data.dataset}, {data.validation}: what the trials validate on"
    if measured.dataset and measured.split:
        where += f", {measured.split}"
    protocols = Counter(t.attributes["protocol"] for t in standing.trials if "protocol" in t.attributes)
    pruned = "; a trial worse than the median of the others at its step is given up" if spec.prune else ""
    named = {
        "question": question(standing),
        "minimised": ", ".join(OBJECTIVES[name] for name in spec.objectives) + pruned if standing.searches else "",
        "trained on": f"{data.dataset}, {data.train}: {config.steps} steps of {data.batch_size} patches of "
        f"{data.patch[0]} x {data.patch[1]}",
        "network": f"{config.model.summary()}, where a trial says nothing else",
        "measured on": where,
        "protocol": "; ".join(f"{text}" for text in protocols),
        "unit": standing.unit,
        "trials": tables.progress(standing),
        "storage": standing.study.storage.shown,
        "runs": spec.folder,
    }
    return [(name, value) for name, value in named.items() if value]


def made_with(standing: Standing) -> list[dict[str, Any]]:
    """What the trials were made with: each program, its libraries and its hardware once.

    A trial that went on elsewhere is of both.
    """
    found: dict[str, list[int]] = {}
    for trial in standing.trials:
        for provenance in trial.provenances:
            found.setdefault(json.dumps(provenance, sort_keys=True), []).append(trial.number)
    made = []
    for text, numbers in found.items():
        facts = {name: _fact(value) for name, value in json.loads(text).items()}
        shown = ", ".join(map(str, numbers[:20])) + ", ..." * (len(numbers) > 20)
        many = f"{len(numbers)} trial{'s' * (len(numbers) > 1)}"
        made.append(
            {
                "title": f"{many} on {facts.get('hardware', 'unknown hardware')}",
                "facts": [*((n, v) for n, v in facts.items() if v), ("trials", shown)],
            }
        )
    return made


def _fact(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_fact(inner)}" for name, inner in value.items())
    return str(value)


def html(standing: Standing, found: Findings, made: Sequence[Table], drawn: Sequence[Section]) -> str:
    """The page."""
    described: list[dict[str, Any]] = []
    sections = []
    for section in drawn:
        shown = []
        for chart in section.charts:
            wide = isinstance(chart, Parallel)
            size = {
                "height": ROOM + ENTRY * chart.tall if isinstance(chart, Chart) and chart.tall else HEIGHT,
                "width": DIMENSION * len(chart.dimensions) if isinstance(chart, Parallel) else 0,
            }
            shown.append({"title": chart.title, "note": chart.note, "wide": wide, "index": len(described), **size})
            described.append(dataclasses.asdict(chart))
        sections.append({"title": section.title, "notes": section.notes, "charts": shown})
    spec = standing.study.spec
    details = [("Configuration that the trials change", json.dumps(configs.to_json(spec.config), indent=1))]
    if standing.study.space:
        details.insert(0, ("Space that is searched", json.dumps(standing.study.space, indent=1)))
    return assemble(
        "study.html",
        SCRIPTS,
        {"charts": described},
        plots=bool(described),
        made=made_with(standing),
        title=title(standing),
        lead=question(standing),
        said=found.said,
        asked=asked(standing)[1:],  # the question is the lead
        details=details,
        tables=made,
        before=len(found.tables) or 1,
        sections=sections,
    )


def markdown(
    standing: Standing,
    found: Findings,
    made: Sequence[Table],
    drawn: Sequence[Section],
    folder: Path,
    link: str,
) -> str:
    """The Markdown; its pictures are written into `folder`, which it calls `link`."""
    parts = [MARK, f"# {escape(title(standing))}"]
    parts.append("\n".join(f"- {escape(sentence)}" for sentence in found.said))
    parts.append("\n".join(f"- {escape(name)}: {escape(value)}" for name, value in asked(standing)))
    for table in made:
        parts += [f"## {escape(table.title)}", tables.markdown(table)]
    count = 0
    for section in drawn:
        parts.append(f"## {escape(section.title)}")
        parts += [escape(note) for note in section.notes]
        for chart in section.charts:
            file = f"chart_{count}.png"
            pictures.figure(chart).savefig(folder / file, dpi=120)
            parts.append(f"![{escape(chart.title)}]({link}/{file})")
            count += 1
    parts.append("## How it was made")
    for facts in made_with(standing):
        parts.append("\n".join(f"- {escape(name)}: {escape(value)}" for name, value in facts["facts"]))
    return "\n\n".join(parts) + "\n"
