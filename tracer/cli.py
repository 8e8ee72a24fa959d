"""The command line: `gradtrace COMMAND ...`, the same program as `python cli.py COMMAND ...`."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, Protocol, cast

from tracer.errors import TracerError, WrongUse
from tracer.version import __version__

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "trace": "run a script unmodified, record its gradients, draw them",
    "explain": "say why a gradient has its size: what was summed, what was averaged, where",
    "diff": "compare two runs of one model: by which factor, and where they part",
    "check": "find what is wrong with the gradients: factors, weights, what should not be there",
    "graph": "draw or export the graph of a trace, or a part of it",
    "info": "say what is in a trace",
}
"""Each is a module of `tracer.commands`; only the one asked for is imported, so help is fast."""

CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE killed


class Command(Protocol):
    """What a module of `tracer.commands` has."""

    def add_options(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> int: ...


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        raise WrongUse("wrong-use", f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        code = _dispatch(words)
        if sys.stdout is not None and not sys.stdout.closed:  # a traced script may close it
            sys.stdout.flush()
        return code
    except TracerError as error:
        return _refuse(error)
    except BrokenPipeError:
        # Nobody reads any more. Python would say so at exit, when it flushes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return CLOSED_PIPE
    except KeyboardInterrupt:
        # Die of the interrupt, as Python does, but without a traceback of ours.
        sys.excepthook = _say_nothing
        raise
    except Exception:
        damage = _damage(words)
        if damage is None:
            raise  # a fault of ours
        return _refuse(damage)


def _refuse(error: TracerError) -> int:
    """Say it in one line, whatever names are in it."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
    print(f"gradtrace: {line}", file=sys.stderr)
    return 2


def _damage(words: list[str]) -> TracerError | None:
    """What is wrong with the files that a command could not read, if they are to blame."""
    if words[:1] == ["trace"]:
        return None
    integrity = importlib.import_module("tracer.integrity")
    return cast("TracerError | None", integrity.damage_among(words[1:]))


def _dispatch(words: list[str]) -> int:
    name = next((word for word in words if not word.startswith("-")), "")
    parser, chosen = _parsers(name)
    if not words:
        parser.print_help()
        return 2
    if chosen is None or name == "trace" or words[0] != name:
        options = parser.parse_args(words)
    else:
        # `explain TRACE --step 3 PARAMETER` too, which argparse alone does not take. Not `trace`:
        # what follows the script is the script's.
        options = chosen.parse_intermixed_args(words[1:], argparse.Namespace(command=name))
    command = _command(options.command)
    if options.command == "trace":
        return command.run(options)  # the script's objects are collected as Python would
    with uncollected():
        return command.run(options)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the search for garbage in circles: what a reading command makes lives to its end.

    Of a million nodes the search takes a third of the time, and finds nothing.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _parsers(chosen: str) -> tuple[Parser, Parser | None]:
    """All commands by name, and the chosen one, which alone has its options."""
    parser = Parser(
        prog="gradtrace",
        description="Shows where PyTorch sums gradients and where it averages them.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gradtrace {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, line in COMMANDS.items():
        command = commands.add_parser(name, help=line, description=_sentence(line))
        command.allow_abbrev = False
        if name == chosen:
            _command(name).add_options(command)
    return parser, commands.choices.get(chosen)


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}."


def _command(name: str) -> Command:
    return cast(Command, importlib.import_module(f"tracer.commands.{name}"))


def _say_nothing(*_: object) -> None:
    """An excepthook."""
