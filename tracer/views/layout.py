"""Where everything goes: runs the layout program and reads the places that it found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphviz.backend import dot_command, execute

from tracer.errors import DotFailed

__all__ = ["TIMEOUT", "Box", "Curve", "Layout", "TooSlow", "find_program", "laid_out"]

VARIABLE = "GRADTRACE_DOT"
TIMEOUT = 10.0

Point = tuple[float, float]


class TooSlow(DotFailed):
    """The layout was not ready in time: draw less."""


@dataclass(frozen=True)
class Box:
    """A rectangle by its centre, in pixels from the top left."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Curve:
    """A Bezier spline: a start, then three points for each piece; the places of tip and label."""

    points: tuple[Point, ...]
    tip: Point | None
    label: Point | None


@dataclass(frozen=True)
class Layout:
    """The places of all nodes (n0, n1, ...), clusters and edges (e0, e1, ...)."""

    width: float
    height: float
    nodes: dict[str, Box]
    clusters: dict[int, Box]
    edges: dict[str, Curve]


def find_program(program: str | Path | None = None) -> str:
    """The layout program: the one named, that of GRADTRACE_DOT, graphviz-pure, or `dot`.

    Raises:
        DotFailed: there is none; with slug no-dot.
    """
    wanted = program or os.environ.get(VARIABLE)
    if wanted:
        found = shutil.which(wanted)
        if found is None:
            raise DotFailed(
                "no-dot", f"{wanted} is no program: {VARIABLE} must name a Graphviz dot"
            )
        return found
    scripts = str(Path(sys.executable).parent)
    found = shutil.which("graphviz-pure", path=scripts) or shutil.which("dot")
    if found is None:
        raise DotFailed(
            "no-dot",
            "no layout program was found, so there is no SVG: "
            "`pip install 'graphviz-pure>=0.2.2'`, or install Graphviz, or name its dot "
            f"in {VARIABLE}",
        )
    return found


def laid_out(source: str, program: str, timeout: float = TIMEOUT) -> Layout:
    """The layout of a source of `views.dot`.

    Raises:
        TooSlow: it took longer than `timeout` seconds.
        DotFailed: the program failed; with slug dot-failed.
    """
    command = dot_command.command("dot", "json0")
    command[0] = program
    try:
        done = execute.run_check(
            command, input=source.encode(), capture_output=True, quiet=True, timeout=timeout
        )
        return _read(json.loads(done.stdout))
    except subprocess.TimeoutExpired as error:
        raise TooSlow("dot-failed", f"{program} took more than {timeout:g} s") from error
    except (subprocess.CalledProcessError, OSError, ValueError, KeyError) as error:
        said = getattr(error, "stderr", None) or b""
        reason = said.decode(errors="replace").strip().splitlines()
        raise DotFailed(
            "dot-failed",
            f"{program} could not lay out the graph ({reason[-1] if reason else error}); "
            f"name another Graphviz dot in {VARIABLE}",
        ) from error


def _read(document: Mapping[str, Any]) -> Layout:
    left, bottom, right, top = _numbers(document["bb"])
    nodes: dict[str, Box] = {}
    clusters: dict[int, Box] = {}
    for item in document.get("objects", ()):
        if item["name"].startswith("cluster_"):
            x0, y0, x1, y1 = _numbers(item["bb"])
            number = int(item["name"].removeprefix("cluster_"))
            clusters[number] = Box((x0 + x1) / 2, top - (y0 + y1) / 2, x1 - x0, y1 - y0)
        elif "pos" in item:
            x, y = _numbers(item["pos"])
            size = float(item["width"]) * 72, float(item["height"]) * 72
            nodes[item["name"]] = Box(x, top - y, *size)
    edges = {item["id"]: _curve(item, top) for item in document.get("edges", ()) if "id" in item}
    return Layout(right - left, top - bottom, nodes, clusters, edges)


def _curve(item: Mapping[str, Any], top: float) -> Curve:
    """A spline as Graphviz writes it: "e,x,y x,y x,y ...", the end point of the arrow first."""
    points: list[Point] = []
    tip: Point | None = None
    for part in item["pos"].split(";")[0].split():
        if part[0] in "es":
            x, y = _numbers(part[2:])
            tip = (x, top - y) if part[0] == "e" else tip
        else:
            x, y = _numbers(part)
            points.append((x, top - y))
    label: Point | None = None
    if "lp" in item:
        x, y = _numbers(item["lp"])
        label = (x, top - y)
    return Curve(tuple(points), tip, label)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]
