"""What a look at someone's files has found: a statement, how sure it is, and the option that helps."""

from dataclasses import dataclass
from typing import Any, Literal

Sure = Literal["certain", "likely", "possible"]

# What values are that must be multiplied by so much to be what they should be.
FACTORS = {
    255.0: "from 0 to 1",
    1 / 255: "255 times too large",
    256.0: "256 times too small",
    1 / 256: "256 times too large: 16 bits in place of 8",
    1 / 257: "257 times too large: 16 bits in place of 8",
    1000.0: "in thousandths",
    1 / 1000: "in thousands",
    100.0: "in hundredths",
    1 / 100: "in hundreds",
    10.0: "in tenths",
    1 / 10: "in tens",
}


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
