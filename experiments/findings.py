"""What a look at someone's files has found: a statement, how sure it is, and the option that helps."""

from dataclasses import dataclass
from typing import Any, Literal

Sure = Literal["certain", "likely", "possible"]


@dataclass(frozen=True)
class Finding:
    """One statement about a depth map, its guide, or the machine."""

    about: str
    """In a word: "unit", "holes", "alignment"."""
    says: str
    """The statement, with the figures that it stands on."""
    sure: Sure = "certain"
    wrong: bool = False
    """Whether it would spoil a result; the rest is information."""
    remedy: str = ""
    """What to do, an option where there is one."""
    value: Any = None
    """What was found, for programs: the value that means unknown, the shift in pixels, the kernel's name."""

    def __str__(self) -> str:
        """One or two lines, marked where something is wrong."""
        sure = "" if self.sure == "certain" else f" ({self.sure})"
        remedy = f"\n{'':14}-> {self.remedy}" if self.remedy else ""
        return f"{'!' if self.wrong else ' '} {self.about:<12}{self.says}{sure}{remedy}"
