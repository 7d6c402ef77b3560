"""How far a report is, on stderr: what is being made, which of how many, and the time left."""

import sys
from typing import Any

LATER = 10.0  # seconds


def bar(what: str, total: int, **options: Any) -> Any:
    """A bar of `total` parts, a context that is told `update()`; on a terminal.

    In a file a line is written now and then, and none of what is done sooner than that.

    Args:
      what: is made.
      total: parts.
      **options: of `tqdm`.
    """
    from tqdm import tqdm

    seen = sys.stderr.isatty()
    interval, delay = (0.2, 0.0) if seen else (LATER, LATER)
    return tqdm(desc=what, total=total, mininterval=interval, maxinterval=interval, delay=delay, leave=False, **options)


def say(bar: Any, what: str) -> None:
    """Says what is being made now: at once on a terminal, with the next line in a file."""
    bar.set_description_str(what, refresh=not bar.delay)
