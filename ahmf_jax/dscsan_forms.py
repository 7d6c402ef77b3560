"""The networks of DSCSAN's Table 4, C1 to C5, as fields of the model: plain values, without JAX or the model.

C1 is RCAN (Zhang et al., ECCV 2018), by the table's own figures; C5 is DSCSAN.
"""

from typing import Any, Literal

from ahmf_jax.errors import InputError

Form = Literal["C1", "C2", "C3", "C4", "C5"]
FORMS: dict[Form, dict[str, Any]] = {
    "C1": {"block": "rcab", "attention": False, "progressive": False},
    "C2": {"block": "rcab", "attention": True, "progressive": False},
    "C3": {"block": "brb", "attention": False, "progressive": False},
    "C4": {"block": "brb", "attention": True, "progressive": False},
    "C5": {"block": "brb", "attention": True, "progressive": True},
}
# RCAN has 10 groups of 20 blocks where DSCSAN x8 has 3 stages of 4 groups of 7: others are changed in proportion.
GROUPS, BLOCKS = 10 / 12, 20 / 7


def fields(form: Form, scale: int, groups: int, blocks: int) -> dict[str, Any]:
    """What the model's fields are in a form, about as deep as a C5 of so many groups in a stage and blocks in a group.

    Without stages all groups see the low resolution, and the paper's C1 at x8 is RCAN itself, but for the interpolated
    depth that is added (`interpolated`).

    Raises:
      InputError: there is no such form.
    """
    if form not in FORMS:
        raise InputError(f"form {form!r} is not one of {', '.join(FORMS)}")
    chosen = FORMS[form]
    if not chosen["progressive"]:
        groups *= scale.bit_length() - 1
    if chosen["block"] == "rcab":
        groups, blocks = max(round(GROUPS * groups), 1), round(BLOCKS * blocks)
    return {**chosen, "groups": groups, "blocks": blocks}
