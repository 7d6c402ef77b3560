"""The trained models of a report, which are run once more for its pictures."""

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ahmf_jax.errors import InputError
from experiments.config import MODELS, AHMFConfig, DADAConfig
from experiments.evaluations import EVALUATIONS, Evaluation
from experiments.figures import Crop
from experiments.methods import DADA_RGB
from experiments.report.sources import CONFIG

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shown(Generic[Result]):
    """What a method made of an image on its way, computed again.

    Attributes:
      method: its name.
      image: the image's.
      scale: the factor.
      found: what it made; None where `text` says why it cannot be shown.
      text: in a sentence or two, what is shown.
    """

    method: str
    image: str
    scale: int
    found: Result | None
    text: str

    @property
    def title(self) -> str:
        """Method, factor and image."""
        return f"{self.method}, x{self.scale}, on {self.image}"


def weights_of(evaluation: Evaluation) -> Path:
    """What can be loaded: the run that the record lies in, or what the command was given."""
    folder = evaluation.folder
    if folder is not None and folder.resolve().parent.name == EVALUATIONS:
        run = folder.resolve().parent.parent
        if (run / CONFIG).is_file():
            return run
    name = evaluation.weights
    return Path(f"{name}_x{evaluation.scale}" if name == DADA_RGB else name)


def model_of(evaluation: Evaluation) -> str:
    """The name in `config.MODELS` of what was measured, by the record or, where that does not say, by its weights.

    "" where neither does.
    """
    if "model" in evaluation.made:
        # A summary, which begins with the name; but for AHMF's, which has none.
        name = str(evaluation.made["model"]).partition(" ")[0].lower()
        return name if name in MODELS else AHMFConfig.name
    weights = weights_of(evaluation)
    if re.fullmatch(rf"{DADA_RGB}_x\d+", str(weights)):
        return DADAConfig.name
    # What cannot be read is not known, and its numbers can be shown all the same.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, InputError):
        if weights.is_dir():
            return str(json.loads((weights / CONFIG).read_text("utf-8"))["trained"]["model"]["name"])
        if weights.suffix == ".safetensors":
            from ahmf_jax.export import read_header  # slow

            return str(json.loads(read_header(weights)["model"])["name"])
    return ""


def attempt(what: str, run: Callable[[], Result]) -> tuple[Result | None, str]:
    """What it gives, and ""; or None and why `what` cannot be shown: weights are gone, or there is no memory for it."""
    import jax

    from ahmf_jax.engine import keep_compiled, out_of_memory

    keep_compiled()
    try:
        return run(), ""
    except InputError as error:
        return None, f"{what} cannot be shown: {error}."
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not out_of_memory(error):
            raise
        lack = "there is no memory for it here: free some, or make the report on a larger machine"
        return None, f"{what} cannot be shown: {lack}."


def which_part(name: str, crop: Crop, height: int, width: int) -> str:
    """In a sentence, what is shown of an image of that size."""
    size = f"{width} x {height} pixels"
    if crop[2:] == (width, height):
        return f"{name}, all of its {size}."
    return (
        f"{name}, of whose {size} the {crop.width} x {crop.height} are shown, from x {crop.x}, y {crop.y}, where "
        "interpolation errs most."
    )


def how_far(evaluation: Evaluation, origin: str, off: float, unit: str, remark: str = "") -> str:
    """In a sentence or two, how far what was computed again, by a model of that origin, is from what was measured."""
    text = f"Computed again for this page{f' ({origin})' if origin else ''}: in the mean {off:.2g} {unit} from the "
    text += f"prediction that was measured{remark}."
    if not evaluation.origin.startswith(origin):
        text += f" That was made by {evaluation.origin}: evaluate again."
    return text
