"""`ahmf study show`: a study in the terminal, while it runs or after."""

import shutil
import sys
import textwrap
import time

from experiments.studies import tables
from experiments.studies.standing import Entry, Standing, printable, read
from experiments.studies.storage import dashboard_command
from experiments.studies.study import Study
from experiments.studies.tables import Table

MOST = 20  # trials of a search that are shown if not all are asked for
WIDEST = 48  # letters of a cell, where a terminal's width is to be kept
GAP = "  "


def table(study: Study) -> str:
    """What `ahmf study show` prints, as it is when nothing limits its width."""
    return text(read(study))


def text(standing: Standing, *, every: bool = False, width: int | None = None) -> str:
    """A study as text.

    Args:
      standing: of the study.
      every: all trials one by one; otherwise the rows of planned ones, and of a search the best.
      width: letters in a line, at most; None: as many as it takes.
    """
    study = standing.study
    parts = [clipped(f"Study {study.name} ({study.spec.kind}) in {study.storage.shown}", width)]
    if not standing.searches:
        parts.append(block(tables.rows(standing), width))
    if standing.searches or every:
        best = tables.best(standing)
        rest = [t for t in standing.trials if t.state == "complete" and t not in best]
        chosen = None if every else [*best, *rest][:MOST]
        parts.append(block(tables.trials(standing, chosen), width))
        if chosen is not None and len(chosen) < len(standing.of("complete")):
            parts[-1] += "\n" + clipped(f"the best {MOST}; --all shows every trial", width)
    lines = [
        f"{name(t)}: {tables.hand(t)}, validated at step {t.step} of {t.steps}"
        + (f", {tables.worker(t.workers[-1])}" if t.workers else "")
        + (f", since {t.began:%Y-%m-%d %H:%M}" if t.began else "")
        for t in standing.of("running", "interrupted")
    ]
    parts.append("\n".join(wrapped(line, width) for line in lines))
    ended = standing.of("failed", "pruned") if every else standing.of("failed")
    parts.append("\n".join(wrapped(f"{name(t)} {t.state}: {t.reason}", width) for t in ended))
    at_work = ", ".join(map(tables.worker, standing.workers))
    lines = [tables.progress(standing), *([f"at work: {at_work}"] if at_work else [])]
    parts.append("\n".join(wrapped(line, width) for line in lines))
    parts.append(printable(dashboard_command(study.storage)))  # to be copied, so it is not broken
    return "\n\n".join(part for part in parts if part)


def name(trial: Entry) -> str:
    """A trial in a line."""
    return f"trial {trial.number}" + ("" if trial.label == f"trial {trial.number}" else f" ({trial.label})")


def wrapped(line: str, width: int | None) -> str:
    """Text in as many lines as it needs."""
    line = printable(line)
    return line if width is None else textwrap.fill(line, max(width, 20), subsequent_indent="  ")


def block(made: Table, width: int | None) -> str:
    """A table in columns, numbers at the right; columns that have no room are left out, and named."""
    cells = [[printable(head) for head in made.heads]]
    cells += [[printable(cell.text) for cell in row] for row in made.rows]
    if width is not None:
        cells = [[clipped(cell, min(WIDEST, width)) for cell in row] for row in cells]
    sizes = [max(len(row[i]) for row in cells) for i in range(len(made.heads))]
    shown = len(sizes)
    while width is not None and shown > 1 and sum(sizes[:shown]) + len(GAP) * (shown - 1) > width:
        shown -= 1
    lines = [
        GAP.join(
            cell.rjust(size) if at_right else cell.ljust(size)
            for cell, size, at_right in zip(row[:shown], sizes[:shown], made.numeric[:shown], strict=True)
        ).rstrip()
        for row in cells
    ]
    if shown < len(sizes):
        lines.append(clipped(f"no room for: {', '.join(cells[0][shown:])}", width))
    return "\n".join(lines)


def clipped(line: str, width: int | None) -> str:
    """A line as it fits."""
    line = printable(line)
    return line if width is None or len(line) <= width else f"{line[: max(width - 1, 0)]}\u2026"


def show(study: Study, *, every: bool = False) -> None:
    """Prints the study once, as wide as the terminal, or as it likes where the output goes elsewhere."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(text(read(study), every=every, width=width))


def watch(study: Study, seconds: float, *, every: bool = False) -> None:
    """Prints the study again and again, in the same place of a terminal, until it is finished or Ctrl-C."""
    terminal = sys.stdout.isatty()
    try:
        while True:
            standing = read(study)
            if terminal:
                size = shutil.get_terminal_size()
                lines = text(standing, every=every, width=size.columns).splitlines()
                if len(lines) > size.lines - 1:  # what scrolls away could not be painted over
                    lines = [*lines[: size.lines - 2], f"\u2026 and {len(lines) - size.lines + 2} lines"]
                # To the corner; every line to its end; what is below.
                sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
                sys.stdout.flush()
            else:
                print(text(standing, every=every), flush=True)
            if standing.finished:
                return
            time.sleep(seconds)
            if not terminal:
                print()
    except KeyboardInterrupt:
        print()
