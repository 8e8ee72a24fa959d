"""Every command that reads a trace, asked in every way that it offers, and what it answered."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import signal
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import networkx as nx

from tracer import cli

__all__ = ["Answer", "Hung", "ask", "questions", "wrong_with"]

SECONDS = 60

FILES = {"graph": (".svg", ".dot", ".graphml", ".json"), "report": (".html",)}
"""Commands whose answer is a file, and what it can be."""


@dataclass(frozen=True)
class Answer:
    """How a command ended; `written` is the file it was asked to write, if it did."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str
    written: Path | None = None


class Hung(Exception):
    """A command took too long."""


def questions(traces: Sequence[Path], folder: Path, parameter: str = "") -> Iterator[list[str]]:
    """The command lines of all commands but `trace`, so that new ones are asked too.

    Once as it is, once with each switch that changes the form of the answer, once for each kind of
    file that the command writes, and for one parameter.
    """
    for name in cli.COMMANDS:
        if name == "trace":
            continue
        parser = argparse.ArgumentParser()
        cli._command(name).add_options(parser)
        needed = [a for a in parser._actions if a.metavar == "TRACE"]
        begin = [name, *(str(path) for path in (*traces, traces[0])[: max(len(needed), 1)])]
        options = {word for action in parser._actions for word in action.option_strings}
        if name in FILES:
            yield from ([*begin, "-o", str(folder / f"out{end}")] for end in FILES[name])
        else:
            yield begin
        yield from ([*begin, switch] for switch in ("--json", "--sarif") if switch in options)
        if parameter and "--parameter" in options:
            target = ["-o", str(folder / "part.dot")] if name == "graph" else []
            yield [*begin, *target, "--parameter", parameter]
        elif parameter and any(action.dest == "parameter" for action in parser._actions):
            yield [*begin, parameter]
            if "--svg" in options:
                yield [*begin, parameter, "--svg", "-o", str(folder / "one.svg")]


def ask(words: Sequence[str]) -> Answer:
    """Run one command in this process.

    Raises:
        Hung: it took longer than a minute.
    """
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    written = Path(words[words.index("-o") + 1]) if "-o" in words else None
    if written is not None:
        written.unlink(missing_ok=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), alarm(words):
        code = cli.main(list(words))
    out.flush()
    text = out.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]
    there = written if written is not None and written.exists() else None
    return Answer(tuple(words), code, text, err.getvalue(), there)


@contextlib.contextmanager
def alarm(words: Sequence[str]) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> NoReturn:
        raise Hung(" ".join(words))

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def wrong_with(answer: Answer) -> str:
    """What is wrong with the form of an answer, "" if nothing is."""
    if answer.code not in (0, 1, 2):
        return f"exit code {answer.code}"
    if answer.code == 2:
        return wrong_with_error(answer)
    for text in (answer.out, answer.err):
        steering = [c for c in text if c != "\n" and not c.isprintable()]
        if steering:
            return f"raw {steering[0]!a} on the terminal"
    if {"--json", "--sarif"} & set(answer.words):
        return wrong_with_json(answer.out)
    if "-o" in answer.words:
        return "no file" if answer.written is None else wrong_with_file(answer.written)
    return "" if answer.out.strip() else "no answer"


def wrong_with_error(answer: Answer) -> str:
    lines = answer.err.rstrip("\n").split("\n")
    if len(lines) != 1 or not lines[0].startswith("gradtrace: ") or not lines[0].isprintable():
        return f"not one line that says what is wrong: {answer.err!r}"
    return "it wrote on standard output too" if answer.out else ""


def wrong_with_json(text: str) -> str:
    def no_number(word: str) -> NoReturn:
        raise ValueError(f"{word} is no JSON")

    try:
        json.loads(text, parse_constant=no_number)
    except ValueError as error:
        return f"not JSON: {error}"
    return ""


def wrong_with_file(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
        return {
            ".svg": wrong_with_svg, ".dot": wrong_with_dot, ".graphml": wrong_with_graphml,
            ".json": wrong_with_json, ".html": wrong_with_html,
        }[file.suffix](text)  # fmt: skip
    except (ET.ParseError, ValueError, UnicodeError) as error:
        return f"{file.suffix}: {error}"


def wrong_with_svg(text: str) -> str:
    for element in ET.fromstring(text).iter():
        name = element.tag.rpartition("}")[2].lower()
        if name in ("script", "foreignobject", "iframe"):
            return f"a {name} element"
        for key, value in element.attrib.items():
            if key.lower().startswith("on") or "javascript:" in value.lower():
                return f"{key}={value!r}"
    return ""


def wrong_with_graphml(text: str) -> str:
    nx.parse_graphml(text)
    return ""


def wrong_with_dot(text: str) -> str:
    """Only that its strings end: the layout program itself is asked by a test of its own."""
    return "a control character" if any(ord(c) < 32 and c not in "\n\t" for c in text) else ""


def wrong_with_html(text: str) -> str:
    class Reader(HTMLParser):
        wrong = ""

        def handle_starttag(self, tag: str, attributes: Any) -> None:
            for key, value in attributes:
                if key.startswith("on") or "javascript:" in (value or "").lower():
                    self.wrong = f"{tag} {key}={value!r}"

    reader = Reader()
    reader.feed(text)
    return reader.wrong


if sys.platform == "win32":
    raise NotImplementedError("SIGALRM tells a command that hangs")
