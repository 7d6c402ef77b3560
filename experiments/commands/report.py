"""`ahmf report`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from ahmf_jax.errors import InputError

LARGE = 25  # MB: more than people send to each other


@dataclass(frozen=True)
class Report:
    """Evaluations and runs as one page that needs nothing else: tables, curves, a viewer of every image; and as
    Markdown and LaTeX beside it."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Runs' folders, with their evaluations and curves, or evaluations' folders, in the order of the rows."""
    out: Path = Path("report.html")
    """The page; the Markdown, its pictures and the LaTeX tables get the same name with other endings."""
    open: bool = False
    """Open the page in the browser."""
    images: int | None = None
    """Images with a viewer in each comparison, at most: the worst; by default all that the evaluations kept."""
    figure: str | None = None
    """Also write the figure of a paper of the image of that name: methods, enlarged crops, error maps; PDF and PNG."""
    crop: tuple[str, ...] = ()
    """Parts of the image to enlarge in the figure, each X,Y,W,H in pixels; by default where the errors are largest."""

    def __call__(self) -> None:
        """Writes it."""
        from experiments.report.make import Places, report, write_figure

        if not self.runs:
            raise InputError("ahmf report: name a run's folder or an evaluation's")
        if self.images is not None and self.images < 0:
            raise InputError(f"--images {self.images}: must be 0 or more")
        if self.crop and self.figure is None:
            raise InputError("--crop belongs to --figure IMAGE: name the image")
        crops = [rectangle(text) for text in self.crop]
        Places(self.out).check()
        figure = write_figure(self.runs, self.figure, crops, self.out) if self.figure is not None else ()
        places = report(self.runs, self.out, most=self.images)
        size = places.page.stat().st_size / 1e6
        fewer = "; --images shows fewer" if size > LARGE else ""
        print(f"{places.page}: {size:.1f} MB{fewer}; {places.markdown.name} beside it")
        for path in figure:
            print(path)
        if self.open:
            import webbrowser

            if not webbrowser.open(places.page.resolve().as_uri()):
                raise InputError(f"--open: no browser was found: open {places.page} yourself")


def rectangle(text: str) -> tuple[int, int, int, int]:
    """X,Y,W,H. InputError where the text is something else."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--crop {text}: give X,Y,W,H in pixels, as in --crop 400,300,120,90") from None
    if min(x, y) < 0 or min(width, height) < 1:
        raise InputError(f"--crop {text}: X and Y must be 0 or more, W and H 1 or more")
    return x, y, width, height
