"""Writes a report: the page, the same as Markdown with its pictures, and the tables as LaTeX."""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_folder, unwritable, write_whole
from experiments import comparison as comparisons
from experiments.report import markdown, page
from experiments.report.diffusion import Computed, Shown, diffusions, figure_of
from experiments.report.sources import gather

MARK = ".ahmf-report"  # only a folder that holds this is ever replaced
HEAD = 4096  # a file's beginning, in which its mark stands
# The beginning of the line by which a file of a report is known: a page's stands in its head, the others' first.
MARKS = {
    ".html": f'<meta name="generator" content="{page.GENERATOR}">',
    ".htm": f'<meta name="generator" content="{page.GENERATOR}">',
    ".md": markdown.MARK,
    ".tex": f"% {page.GENERATOR};",
}


@dataclass(frozen=True)
class Places:
    """Where the parts of a report go; all beside its page."""

    page: Path

    @property
    def markdown(self) -> Path:
        """The report as Markdown."""
        return self.page.with_suffix(".md")

    @property
    def latex(self) -> Path:
        """The tables as LaTeX."""
        return self.page.with_suffix(".tex")

    @property
    def pictures(self) -> Path:
        """The folder of the Markdown's pictures."""
        return self.page.with_name(f"{self.page.stem}_files")

    def check(self) -> None:
        """InputError where something that is no report would be replaced, or nothing can be written."""
        if self.page.suffix not in (".html", ".htm"):
            raise InputError(f"--out {self.page}: name a page, as in --out report.html, or a folder that is there")
        if not self.page.parent.is_dir():
            raise InputError(f"--out {self.page}: there is no folder {self.page.parent}: create it or write elsewhere")
        for path in (self.page, self.markdown, self.latex):
            if path.is_dir():
                raise InputError(f"--out {self.page}: {path} is a folder: name another page")
            try:
                with path.open("rb") as file:
                    lines = file.read(HEAD).splitlines()
                    page_, mark = path == self.page, MARKS[path.suffix].encode()
                    ours = any(line.startswith(mark) for line in (lines if page_ else lines[:1]))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unwritable(path, error) from None
            if not ours:
                raise InputError(f"--out {self.page}: {path} is there and no report: move it, or name another page")
        if self.pictures.exists() and not (self.pictures / MARK).is_file():
            raise InputError(
                f"--out {self.page}: {self.pictures} is there and no report's: move it, or name another page"
            )


def report(
    folders: Sequence[Path],
    out: Path,
    *,
    title: str = "",
    lead: str = "",
    most: int | None = None,
    example: page.Example | None = None,
    computed: Computed | None = None,
) -> Places:
    """Writes the report of these runs and evaluations; what an earlier report left there is replaced.

    Args:
      folders: runs' or evaluations' folders.
      out: the page; the rest gets its name with other endings.
      title, lead: of the page; by default the title says what was measured.
      most: images with a viewer in each comparison, at most; None: all that were kept.
      example: a command to try; its picture lies beside the page.
      computed: diffusions that `write_figure` has shown.

    Raises:
      InputError: nothing to report, a damaged record, a place that cannot be written.
    """
    places = Places(out)
    places.check()
    sources = gather(folders)
    compared = comparisons.compare(sources.evaluations)
    title = title or _title(compared, [t.name for t in sources.trainings])
    made = page.render(
        compared, sources.trainings, title=title, lead=lead, most=most, example=example, computed=computed
    )

    def text(pictures: Path, link: str) -> str:
        return markdown.write(
            pictures, link, compared, sources.trainings, made, title=title, lead=lead, example=example
        )

    write(places, made.html, text, "\n\n".join(comparisons.latex(c) for c in compared))
    return places


def write(places: Places, html: str, text: Callable[[Path, str], str], tables: str) -> None:
    """Writes the parts of a report, each whole, in the place of an earlier one's.

    Args:
      places: checked.
      html: the page.
      text: writes the Markdown's pictures into a folder, and gives the Markdown; it is told what to call the folder.
      tables: LaTeX; "" where there is none.
    """
    texts = {places.page: html}
    with atomic_folder(places.pictures, replace=True) as pictures:
        (pictures / MARK).touch()
        texts[places.markdown] = text(pictures, quote(places.pictures.name))
    if tables:
        texts[places.latex] = f"{MARKS['.tex']} needs \\usepackage{{booktabs}}\n{tables}"
    else:
        places.latex.unlink(missing_ok=True)  # an earlier report's, which this one has nothing in the place of
    for path, content in texts.items():
        write_whole(path, content.encode())


def _title(compared: Sequence[comparisons.Comparison], runs: Sequence[str]) -> str:
    """What the report is about."""
    names = list(dict.fromkeys(comparison.title for comparison in compared))
    if len(names) == 1:
        return f"Depth super-resolution: {names[0]}"
    return "Depth super-resolution" if names else f"Training of {', '.join(runs)}"


def write_figure(
    folders: Sequence[Path],
    image: str,
    crops: Sequence[tuple[int, int, int, int]],
    out: Path,
    computed: Computed | None = None,
) -> tuple[Path, ...]:
    """The figure of an image in the manner of a paper, as PDF and PNG beside the page `out`; their paths.

    One for each comparison in which the image was kept, with a number where there are several; and one of the diffusion
    of each DADA among the methods, which is added to what is `computed`.

    Raises:
      InputError: no evaluation kept an image of that name, or only some of those that are compared; a crop lies outside
        it; a file that is no figure would be replaced. Nothing is written then.
    """
    from experiments import figures

    sources = gather(folders)
    compared = comparisons.compare(sources.evaluations)
    having = [c for c in compared if any(image in evaluation.kept() for evaluation in c.evaluations)]
    if not having:
        kept = dict.fromkeys(name for evaluation in sources.evaluations for name in evaluation.kept())
        raise InputError(f"--figure {image}: no evaluation kept it: choose one of {', '.join(kept) or 'none'}")
    stem = f"{out.stem}_{_plain(image)}"
    drawn = {
        name: figures.draw(comparison.evaluations, image, crops)
        for name, comparison in zip(_numbered(stem, len(having)), having, strict=True)
    }
    shown = [one for found in diffusions([(c, [image]) for c in having], computed) for one in found if one.found]
    drawn |= {name: figure_of(one) for name, one in zip(_named(f"{stem}_diffusion", shown), shown, strict=True)}
    paths = [path for name in drawn for path in figures.places(out.with_name(name))]
    for path, data in zip(paths, itertools.chain(*drawn.values()), strict=True):
        write_whole(path, data)
    return tuple(paths)


def _plain(name: str) -> str:
    """A name as a part of a file's."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", name)


def _named(stem: str, shown: Sequence[Shown]) -> list[str]:
    """The stem, with factor and method where there are several diffusions; and a number where those are the same."""
    if len(shown) == 1:
        return [stem]
    names = [f"{stem}_x{one.scale}_{_plain(one.method)}" for one in shown]
    return [name if names.count(name) == 1 else f"{name}_{names[: i + 1].count(name)}" for i, name in enumerate(names)]


def _numbered(name: str, count: int) -> list[str]:
    """The name, with a number where there are several of it."""
    return [name] if count == 1 else [f"{name}_{i}" for i in range(1, count + 1)]
