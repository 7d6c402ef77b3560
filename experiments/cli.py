"""`ahmf`: one command, its subcommands the typed dataclasses of `experiments.commands`.

Exit status: 0 done; 2 the user's mistake, one line on stderr; 1 a failure of ours, with its traceback; 75 stopped
by a signal, and resumable. Everything heavy is imported by the command that needs it: `ahmf --help` loads no JAX.
"""

import contextlib
import functools
import io
import itertools
import logging
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro

from ahmf_jax.errors import InputError
from experiments import config as configs
from experiments.commands.benchmark import Benchmark
from experiments.commands.convert import Convert
from experiments.commands.data import Data, PrepareSet
from experiments.commands.doctor import Doctor
from experiments.commands.evaluate import Evaluate
from experiments.commands.export import Export
from experiments.commands.report import Report
from experiments.commands.study import StudyCommand, StudyLevels, study_ablation
from experiments.commands.train import Train, TrainRun, as_options
from experiments.commands.upsample import Upsample
from experiments.config import TrainConfig
from experiments.pages import restart_with_large_pages

STOPPED = 75  # EX_TEMPFAIL: try again, with --resume
STUDY_RECIPE = "ahmf_study_x4"
PLANNED: dict[str, Callable[..., Any]] = {"levels": StudyLevels, "ablation": study_ablation}


@dataclass(frozen=True)
class Demo:
    """The whole story on generated scenes in minutes: train, evaluate, super-resolve, convert; a page with pictures."""

    out: Path = Path("demo")
    """Folder for the page and everything that it shows; emptied of an earlier demo."""

    def __call__(self) -> None:
        """Runs it."""
        from experiments.demo import demo

        demo(self.out)


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Upsample, tyro.conf.subcommand("upsample")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[
        StudyCommand,
        tyro.conf.subcommand(
            "study", description="Many trainings, and what they say: levels, blocks, or any settings."
        ),
    ]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Benchmark, tyro.conf.subcommand("benchmark")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)

COMMANDS = [choice.__metadata__[0].name for choice in typing.get_args(Command)]


def one_line(message: str, args: list[str]) -> str:
    """What tyro prints of the arguments in a box, a title above and rules between its sections, as one line."""
    lines = [line.strip(" \u2500\u2502\u256d\u256e\u2570\u256f+|") for line in message.splitlines()[1:]]
    sections = [" ".join(part) for rule, part in itertools.groupby(lines, lambda line: not line.strip("-")) if not rule]
    said = [" ".join(section.split()).rstrip(".") for section in sections]
    if args and said and said[0].startswith("Unrecognized"):
        return _unknown(message, said, args)
    text = "; ".join(said)
    text = re.sub(r"^Error parsing [.\w][-.\w]*: ", "", text)  # where in our classes: the rest names the option
    return re.sub(r"For full helptext, (?:run|see):? (.*)", r"see `\1`", text)


def _unknown(message: str, said: list[str], args: list[str]) -> str:
    """One line for options that the command lacks: of those that tyro finds alike only the command's own are named.

    Args:
      message: of tyro.
      said: its sections.
      args: of the command line.
    """
    applied = re.findall(r"(\S+) \(applied to (.+?)\)", said[0])
    names = ", ".join(name for name, _ in applied) or said[0].partition(": ")[2]
    alike: dict[str, list[str]] = {}  # each with the commands that have it, where tyro names them
    option = ""
    for line in message.splitlines():
        if found := re.match(r"[\u2502| ] {5}(?:-\w, )?(--[^ ,]+)", line):
            option = found[1]
            alike.setdefault(option, [])
        elif found := re.match(r"[\u2502| ] +in (ahmf.*) --help", line):
            alike.setdefault(option, []).append(found[1])
    # What the arguments begin with: the command, or commands, and perhaps what it is given.
    own = {" ".join(["ahmf", *args[:count]]) for count in (1, 2)}
    meant = [option for option, places in alike.items() if not places or own & {*places}]
    prog = re.findall(r"For full helptext, (?:run|see):? (.*?) --help", said[-1])
    places = [place for place in itertools.chain(*alike.values()) if place in own]
    first = [f"ahmf {args[0]}"] if args[0] in COMMANDS else []
    command = applied[-1][1] if applied else max([*prog, *places, *first], key=len)
    perhaps = [f"Perhaps you meant: {', '.join(meant)}"] if meant else []
    subcommands = [section for section in said if section.startswith("Available subcommands")]
    return "; ".join([f"Unrecognized options: {names}", *perhaps, *subcommands, f"see `{command} --help`"])


def parse(args: list[str]) -> Any:
    """The command that the arguments describe; a usage error is an InputError of one line."""
    options: dict[str, Any] = {"prog": "ahmf", "description": "Guided depth super-resolution."}
    markers = (tyro.conf.OmitSubcommandPrefixes,)
    command: Any = Command
    if args[:1] == ["train"] and len(args) > 1 and not args[1].startswith("-"):
        return _of_recipe(functools.partial(TrainRun, name=args[1]), "train", args[1], args[2:])
    elif args[:1] == ["study"] and args[1:2] and args[1] in PLANNED:
        recipe = args[2:3] if args[2:3] and not args[2].startswith("-") else [STUDY_RECIPE]
        rest = args[3:] if recipe == args[2:3] else args[2:]
        return _of_recipe(PLANNED[args[1]], f"study {args[1]}", recipe[0], rest)
    elif args[:2] == ["data", "prepare"] and len(args) > 2 and not args[2].startswith("-"):
        from data_pipelines import datasets

        chosen: Any = datasets.builder_class(args[2]).Options
        command = PrepareSet[chosen]
        options = {"prog": f"ahmf data prepare {args[2]}", "default": PrepareSet(chosen(), args[2])}
        args = args[3:]
    elif args[:2] == ["data", "prepare"] and not {"--help", "-h"} & set(args):
        from data_pipelines import datasets

        raise InputError(
            f"ahmf data prepare: name the data set first ({', '.join(datasets.DATASETS)}) and its options after it"
        )
    elif args[:1] == ["train"] and args[1:] and not any(a.startswith(("--resume", "--help", "-h")) for a in args):
        raise InputError(
            f"ahmf train {args[1]}: name the configuration first ({', '.join(configs.names())}, or a Python file) and "
            "its options after it, or give --resume RUN"
        )
    return _parsed(command, args, config=markers, **options)


def _parsed(command: Any, args: list[str], **options: Any) -> Any:
    """What tyro makes of the arguments."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(command, args=args, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(one_line(errors.getvalue(), args) or "usage: see `ahmf --help`") from None


def _of_recipe(make: Callable[..., Any], words: str, name: str, args: list[str]) -> Any:
    """The training or study that the arguments make of the configuration of that name."""

    def parsed(config: TrainConfig) -> Any:
        default = make(config=config)
        # The recipe says which model it is of, and that is no choice.
        markers = (tyro.conf.AvoidSubcommands,)
        return _parsed(type(default), args, config=markers, prog=f"ahmf {words} {name}", default=default)

    recipe = configs.load(name)
    with as_options():
        run = parsed(recipe)
        # The recipe's splits are of its own data set; whatever is said of them on the command line still counts.
        other = run.config.data.dataset
        return run if other == recipe.data.dataset else parsed(configs.on_dataset(recipe, other))


def main(args: list[str] | None = None) -> None:
    """The console script."""
    if args is None:
        args = sys.argv[1:]
        if args[:1] in (["train"], ["demo"], ["study"]):
            restart_with_large_pages()
    try:
        parse(args or ["--help"])()
    except InputError as error:
        print(f"ahmf: {' '.join(str(error).split())}", file=sys.stderr)
        logging.disable()  # what libraries log on their way out would bury that line
        _end(2, failure=str(error))
    except KeyboardInterrupt:
        print("ahmf: interrupted", file=sys.stderr)
        _end(130, together=False)
    except BrokenPipeError:  # `ahmf ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _end(141, together=False)
    except configs.Stopped as stop:
        from ahmf_jax import distributed

        if distributed.is_main():
            print(f"ahmf: {stop}", file=sys.stderr)
        _end(STOPPED)
    except Exception as error:
        if not _in_the_way():
            raise
        traceback.print_exc()
        _end(1, failure=f"{type(error).__name__}: {error}")


def _in_the_way() -> bool:
    """Whether the program would not end by itself: other processes wait for it, or a compile that nobody waits for."""
    distributed = sys.modules.get("ahmf_jax.distributed")
    return distributed is not None and (distributed.process_count() > 1 or distributed.in_work())


def _end(status: int, **how: Any) -> NoReturn:
    """Ends the program."""
    if _in_the_way():
        from ahmf_jax import distributed

        distributed.leave(status, **how)
    sys.exit(status)


if __name__ == "__main__":
    main()
