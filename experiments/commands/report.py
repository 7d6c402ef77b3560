"""`ahmf report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ahmf_jax.errors import InputError

if TYPE_CHECKING:
    from experiments.report.make import Places
    from experiments.studies.study import Study

PAGE = "report.html"
LARGE = 25  # MB: more than people send to each other


@dataclass(frozen=True)
class Report:
    """Evaluations and runs, or a study, as one page that needs nothing else: tables, curves, a viewer of every image;
    and as Markdown and LaTeX beside it."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Runs' folders, with their evaluations and curves, or evaluations' folders, in the order of the rows; or a study's
    folder, or its name."""
    out: Path = Path(PAGE)
    """The page, or a folder that is there for its `report.html`; the Markdown, its pictures and the LaTeX tables
    get the same name with other endings."""
    open: bool = False
    """Open the page in the browser."""
    images: int | None = None
    """Images with a viewer in each comparison, at most: the worst; by default all that the evaluations kept."""
    figure: str | None = None
    """Also write the figure of a paper of the image of that name: methods, enlarged crops, error maps; and of
    each DADA how its diffusion goes; PDF and PNG."""
    crop: tuple[str, ...] = ()
    """Parts of the image to enlarge in the figure, each X,Y,W,H in pixels; by default where the errors are largest."""
    storage: str | None = None
    """Of a study: the URL of its database, as in `ahmf study show`."""

    def __call__(self) -> None:
        """Writes it."""
        from experiments.report.diffusion import Computed
        from experiments.report.make import Places, report, write_figure

        if not self.runs:
            raise InputError("ahmf report: name a run's folder, an evaluation's or a study's")
        if self.images is not None and self.images < 0:
            raise InputError(f"--images {self.images}: must be 0 or more")
        if self.crop and self.figure is None:
            raise InputError("--crop belongs to --figure IMAGE: name the image")
        crops = [rectangle(text) for text in self.crop]
        page = self.out / PAGE if self.out.is_dir() else self.out
        Places(page).check()
        if (study := self._study()) is not None:
            self._of_study(study, page)
            return
        computed: Computed = {}  # a diffusion takes up to a minute
        figure = write_figure(self.runs, self.figure, crops, page, computed) if self.figure is not None else ()
        places = report(self.runs, page, most=self.images, computed=computed)
        self._made(places, "; --images shows fewer")
        for path in figure:
            print(path)
        self._open(places.page)

    def _study(self) -> "Study | None":
        """The study that is named, by its folder or its name; None where evaluations are."""
        from experiments.studies.storage import default_url, open_storage
        from experiments.studies.study import RECORD, open_study, study_of_folder

        folders = [(run / RECORD).is_file() for run in self.runs]
        named = self.runs[0]
        if self.storage is None and not any(folders):
            if len(self.runs) > 1 or named.exists() or len(named.parts) > 1:
                return None
            try:
                return open_study(open_storage(default_url()), str(named))
            except InputError as problem:
                raise InputError(f"{named}: there is no such folder, and as for a study, {problem}") from None
        if len(self.runs) > 1:
            raise InputError(f"ahmf report: a study has a report of its own: name {named} or {self.runs[1]} alone")
        if folders[0]:
            return study_of_folder(named, self.storage)
        return open_study(open_storage(self.storage or default_url()), str(named))

    def _of_study(self, study: "Study", page: Path) -> None:
        """Writes the report of a study."""
        from experiments.studies.page import report_study

        if self.images is not None or self.figure is not None:
            raise InputError("--images and --figure are of evaluations: a study's report has no images")
        places = report_study(study, page)
        self._made(places)
        self._open(places.page)

    def _made(self, places: "Places", remedy: str = "") -> None:
        """Says what was written, and what can be done where it is large."""
        size = places.page.stat().st_size / 1e6
        print(f"{places.page}: {size:.1f} MB{remedy * (size > LARGE)}; {places.markdown.name} beside it")

    def _open(self, page: Path) -> None:
        """Opens the page, if that is wished."""
        if self.open:
            import webbrowser

            if not webbrowser.open(page.resolve().as_uri()):
                raise InputError(f"--open: no browser was found: open {page} yourself")


def rectangle(text: str) -> tuple[int, int, int, int]:
    """X,Y,W,H. InputError where the text is something else."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--crop {text}: give X,Y,W,H in pixels, as in --crop 400,300,120,90") from None
    if min(x, y) < 0 or min(width, height) < 1:
        raise InputError(f"--crop {text}: X and Y must be 0 or more, W and H 1 or more")
    return x, y, width, height
