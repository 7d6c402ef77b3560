"""`ahmf benchmark robustness`: how the error grows as the guide, the noise or the samples get worse, one at a time."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ahmf_jax.errors import InputError
from ahmf_jax.writing import write_whole
from data_pipelines.datasets import Dataset
from experiments.data import default_split, open_named
from experiments.evaluate import decimal_places, how_made, measure_all
from experiments.evaluations import finite
from experiments.methods import Method, open_methods
from experiments.plots import COLOURS, MARKERS, files, save, tidy
from experiments.protocols import PROTOCOLS, Protocol

if TYPE_CHECKING:
    from experiments.commands.benchmark import BenchmarkRobustness

METRICS = ("mae", "rmse")


@dataclass(frozen=True)
class Effect:
    """Something that gets worse.

    Attributes:
      option: of the command, with its levels.
      title: of the plot, with the levels' unit.
      field: of `Degradation`.
      unit: one of the level, in the field's.
      whole: whether levels are whole numbers.
    """

    option: str
    title: str
    field: str
    unit: float = 1.0
    whole: bool = False

    @property
    def of_guide(self) -> bool:
        """Whether it is the guide that gets worse, which is nothing to who reads none."""
        return self.field.startswith("guide")

    @property
    def flag(self) -> str:
        """The option as it is given."""
        return f"--{self.option.replace('_', '-')}"


EFFECTS = (
    Effect("guide_shift", "guide shifted, pixels", "guide_shift", whole=True),
    Effect("noise", "noise of the low resolution, sigma in 255ths of the range", "noise_sigma", 1 / 255),
    Effect("dropouts", "missing low-resolution samples, %", "dropouts", 1 / 100),
    Effect("guide_blur", "guide blurred, sigma in pixels", "guide_blur"),
)
BASE = "float"


@dataclass(frozen=True)
class Point:
    """The means over the images of a method's errors at a level of an effect, in the data's unit."""

    method: str
    effect: str
    level: float
    mae: float
    rmse: float


def benchmark_robustness(command: "BenchmarkRobustness") -> None:
    """Measures, prints the tables, writes the numbers and draws them where it is asked for.

    Raises:
      InputError: an unknown method or data set, a level that is not possible, or a file that cannot be written.
    """
    from tqdm import tqdm

    from experiments.upsample import check_place

    levels = {effect.option: chosen_levels(effect, getattr(command, effect.option)) for effect in EFFECTS}
    for path in (command.out, *([] if command.plot is None else files(command.plot))):
        if path is not None:
            check_place(path)
    split = default_split(command.dataset, command.data_dir) if command.split is None else command.split
    dataset = open_named(command.dataset, split, command.data_dir, command.pairs)
    methods = open_methods(command.methods, command.scale, PROTOCOLS[BASE])
    if not any(method.guided for method in methods.values()):
        levels = {effect.option: levels[effect.option] for effect in EFFECTS if not effect.of_guide}
    count = len(methods) * (1 + sum(len(of) - 1 for of in levels.values()))  # none of any effect is measured once
    with tqdm(total=count, unit="evaluation", disable=None, leave=False) as bar:
        points = measure(methods, dataset, levels, bar.update)
    unit = PROTOCOLS[BASE].unit_of(dataset.info)[0]
    scale = next(iter(methods.values())).scale
    print(f"x{scale}, {len(dataset)} images of {dataset.info.name}, {split or 'all of it'}: {', '.join(dataset.names)}")
    print(f"protocol {BASE}: {PROTOCOLS[BASE]}; one effect at a time is added to it")
    for name, method in methods.items():
        print(f"{name}: {method.origin}")
    if left_out := [effect.flag for effect in EFFECTS if effect.option not in levels]:
        print(f"{' and '.join(left_out)} are left out: nothing here reads a guide")
    print(tables(points, list(methods), unit))
    if command.out is not None:
        record = {
            "dataset": dataset.info.name,
            "split": split,
            "images": list(dataset.names),
            "scale": scale,
            "unit": unit,
            "protocol": str(PROTOCOLS[BASE]),
            "methods": {name: method.origin for name, method in methods.items()},
            "effects": {effect.option: effect.title for effect in EFFECTS if effect.option in levels},
            "points": [dataclasses.asdict(point) for point in points],
            "made": how_made(),
        }
        write_whole(command.out, json.dumps(finite(record), indent=1).encode())
    if command.plot is not None:
        images = f"{len(dataset)} {'image' if len(dataset) == 1 else 'images'}"
        title = f"x{scale}, {images} of {dataset.info.name}, protocol {BASE}; one effect at a time"
        draw(points, list(methods), title, unit, command.plot)


def chosen_levels(effect: Effect, given: Sequence[float]) -> list[float]:
    """The levels in order, none first. InputError for one that is not possible."""
    for level in given:
        if not level >= 0:
            raise InputError(f"{effect.flag} {level:g}: must be 0 or more")
        try:
            degraded(effect, level)
        except InputError as error:
            raise InputError(f"{effect.flag} {level:g}: {error}") from None
    return sorted({0.0, *map(float, given)})


def degraded(effect: Effect, level: float) -> Protocol:
    """The base protocol with an effect at a level."""
    base = PROTOCOLS[BASE]
    value: Any = int(level) if effect.whole else level * effect.unit
    return dataclasses.replace(base, degrade=dataclasses.replace(base.degrade, **{effect.field: value}))


def measure(
    methods: dict[str, Method],
    dataset: Dataset,
    levels: dict[str, list[float]],
    done: Callable[[], object] = lambda: None,
) -> list[Point]:
    """Every method at every level, by the option of its effect.

    Level 0 is the base protocol itself, measured once for all effects.
    """

    def errors(method: Method, protocol: Protocol) -> list[float]:
        found = measure_all(method, dataset, BASE, protocol).mean.metrics
        done()
        return [found[metric] for metric in METRICS]

    points = []
    for name, method in methods.items():
        plain = errors(method, PROTOCOLS[BASE])
        for effect in _shown(levels):
            for level in levels[effect.option]:
                values = errors(method, degraded(effect, level)) if level else plain
                points.append(Point(name, effect.option, level, *values))
    return points


def _shown(options: Iterable[str]) -> list[Effect]:
    """The effects of these options, in their order."""
    found = set(options)
    return [effect for effect in EFFECTS if effect.option in found]


def tables(points: Sequence[Point], methods: Sequence[str], unit: str) -> str:
    """A table an effect: a row a level, MAE and RMSE of each method, with four significant digits or more."""
    places = decimal_places(v for p in points for v in (p.mae, p.rmse))
    lines = []
    for effect in _shown(point.effect for point in points):
        of = [point for point in points if point.effect == effect.option]
        at = {(point.method, point.level): f"{point.mae:.{places}f} {point.rmse:.{places}f}" for point in of}
        widths = {name: max(len(name), *(len(at[key]) for key in at if key[0] == name)) for name in methods}
        lines += ["", f"{effect.title}; MAE and RMSE ({unit})"]
        lines.append("  ".join(["level".rjust(7), *(name.rjust(widths[name]) for name in methods)]))
        for level in sorted({point.level for point in of}):
            lines.append("  ".join([f"{level:7g}", *(at[name, level].rjust(widths[name]) for name in methods)]))
    return "\n".join(lines)


def draw(points: Sequence[Point], methods: Sequence[str], title: str, unit: str, plot: Path) -> None:
    """Draws the mean absolute errors, a panel an effect, two in a row, as SVG and PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = _shown(point.effect for point in points)
    rows = math.ceil(len(shown) / 2)
    figure = Figure(figsize=(10, 3.6 * rows), layout="constrained")
    for axes, effect in zip(figure.subplots(rows, 2).flat, shown, strict=True):
        for index, name in enumerate(methods):
            line = [(p.level, p.mae) for p in points if (p.method, p.effect) == (name, effect.option)]
            style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
            axes.plot(*zip(*line, strict=True), label=name, linewidth=1.8, markersize=6, **style)
        axes.set_xlabel(effect.title)
        if effect.whole:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(f"MAE ({unit})")
        axes.set_ylim(bottom=0)
        tidy(axes)
    figure.suptitle(title)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(methods), 4), frameon=False)
    save(figure, plot)
