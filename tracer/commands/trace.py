"""`gradtrace trace`: run a script unmodified, record its gradients, draw them."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.commands import launch, metadata
from tracer.commands.console import say
from tracer.commands.values import (
    Steps,
    option,
    parse_count,
    parse_detail,
    parse_output,
    parse_steps,
    parse_switch,
    parse_whole,
)
from tracer.errors import TracerError, WrongUse
from tracer.events import RunInfo
from tracer.record import children, script
from tracer.record.script import Ending, Target, TorchWatch
from tracer.runfiles import file_of_rank, ranks_of_job
from tracer.tracefile import TraceWriter, load

if TYPE_CHECKING:
    from tracer.devices import VirtualGpus
    from tracer.record.recorder import Recorder
    from tracer.record.simulation import Simulation

__all__ = ["Plan", "add_options", "run"]

PARSERS: Mapping[str, Callable[[object], Any]] = {
    "output": parse_output,
    "steps": parse_steps,
    "every": parse_count,
    "detail": parse_detail,
    "depth": parse_whole,
    "svg": parse_switch,
    "check": parse_switch,
    "gpus": parse_count,
    "world_size": parse_count,
    "terms": parse_switch,
}
"""The options that a script may carry in its `[tool.tracer]` table, and how each is read."""


@dataclass(frozen=True)
class Plan:
    """What to run and what to record of it."""

    target: Target
    output: Path
    steps: Steps | None = None
    every: int = 1
    detail: str = "edges"
    svg: bool = True
    check: bool = False
    depth: int | None = None
    gpus: int | None = None
    terms: bool = False
    world_size: int | None = None
    gpus_insist: bool = False
    """Whether the virtual ones were asked for by a flag, which wins over real ones."""

    @property
    def picture(self) -> Path:
        return self.output.with_suffix(".svg")

    @property
    def info(self) -> RunInfo:
        """What is known of the run before torch is there."""
        options = {name: value for name, value in asdict(self).items() if name in PARSERS}
        return RunInfo(
            command=(self.target.name, *self.target.arguments),
            cwd=os.getcwd(),
            script=self.target.name,
            versions={"python": sys.version.split()[0]},
            options={**options, "output": str(self.output)},
            pid=os.getpid(),
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "gradtrace trace [options] SCRIPT [args ...]\n"
        "       gradtrace trace [options] -m MODULE [args ...]"
    )
    parser.epilog = (
        "A script can carry its own defaults in a `# /// script` block with a [tool.tracer] table; "
        "flags win. Everything after SCRIPT belongs to the script."
    )
    parser.add_argument(
        "-o", "--output", type=option(parse_output), metavar="FILE.trace",
        help="where the trace goes, and the SVG beside it (default: the script's name, here)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=option(parse_steps), metavar="A:B",
        help="record these optimizer steps only, from 1 on; also A, A: and :B",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=option(parse_count), metavar="N", help="record every Nth optimizer step"
    )
    parser.add_argument(
        "--detail", type=option(parse_detail), metavar="LEVEL",
        help="what to measure: edges (every gradient, the default), buffers (what is in .grad, "
        "at roots and between ranks), structure (nothing)",
    )  # fmt: skip
    parser.add_argument(
        "--depth", type=option(parse_whole), metavar="N",
        help="unfold the picture to N levels of modules",
    )  # fmt: skip
    parser.add_argument(
        "--gpus", type=option(parse_count), metavar="N",
        help="run it on N virtual CUDA devices (slow, with real values), for machines without any",
    )  # fmt: skip
    parser.add_argument(
        "--nproc-per-node", type=option(parse_count), metavar="N",
        help="run it as N ranks on this machine, started by torch's own launcher",
    )  # fmt: skip
    parser.add_argument(
        "--world-size", type=option(parse_count), metavar="N",
        help="run one rank as if it were the first of N equal ones: nothing is exchanged in fact",
    )  # fmt: skip
    parser.add_argument(
        "--terms", action="store_true", default=None,
        help="tell how much of each gradient comes from each term of the loss; costs a further "
        "backward pass for every term",
    )  # fmt: skip
    parser.add_argument(
        "--no-svg", dest="svg", action="store_false", default=None, help="draw nothing"
    )
    parser.add_argument(
        "--check", action="store_true", default=None,
        help="say at the end what `gradtrace check` finds; the exit code stays the script's",
    )  # fmt: skip
    parser.add_argument(
        "-m", dest="is_module", action="store_true", help="SCRIPT is a module, as for `python -m`"
    )
    # PARSER takes the first word and all after it untouched, "--" and options included.
    parser.add_argument("script", nargs=argparse.PARSER, metavar="SCRIPT", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Run the script and report; the script's own exit code."""
    target = Target(options.script[0], tuple(options.script[1:]), options.is_module)
    target.check()
    hidden = target.hidden_module()
    if hidden is not None:
        say(f"{hidden} is hidden by this program's own package `tracer`: the script finds that one")
    if launch.is_asked(options):
        return _launch(options, _plan(target, vars(options)))
    plan = _plan(target, vars(options))
    session = Session(plan)
    session.begin()
    try:
        session.ending = script.run(target)
    except WrongUse:
        session.abandon()
        raise
    if session.ending.interrupted:
        raise KeyboardInterrupt
    return session.ending.exit_code


def _launch(options: argparse.Namespace, plan: Plan) -> int:
    """Have the ranks run, each under a tracer of its own, and sum up what they left."""
    if plan.world_size is not None:
        raise WrongUse(
            "wrong-use", "--nproc-per-node and --world-size: ranks are started, or simulated"
        )
    code, job = launch.launch(options)
    _report_job(plan, job)
    return code


def _report_job(plan: Plan, job: str) -> bool:
    """Say once for all ranks what the job left; False if no rank of it left anything."""
    # Reading needs networkx, which the script must not find imported because we looked on.
    from tracer.commands import report

    for output in ranks_of_job(plan.output, job):
        report.after_run(replace(plan, output=output), "", has_ended=True)
        return True
    return False


def _of_rank(output: Path, environment: Mapping[str, str]) -> Path:
    """Each rank of a job that torchrun started writes a file of its own: run.rank1.trace."""
    rank, world = environment.get("RANK", ""), environment.get("WORLD_SIZE", "")
    if not (rank.isdecimal() and world.isdecimal() and int(world) > 1):
        return output
    return file_of_rank(output, int(rank))


def _plan(target: Target, flags: Mapping[str, Any]) -> Plan:
    """The script's own defaults under the flags."""
    file = target.source_file()
    name = str(file) if file is not None else target.name
    table = metadata.table_of(script.read_text(file), name) if file is not None else {}
    chosen = {"output": Path(f"{target.stem}.trace").absolute(), **_defaults(table, name)}
    chosen.update({key: flags[key] for key in PARSERS if flags.get(key) is not None})
    chosen["output"] = _of_rank(chosen["output"], os.environ)
    return Plan(target, **chosen, gpus_insist=flags.get("gpus") is not None)


def _defaults(table: Mapping[str, object], name: str) -> dict[str, Any]:
    defaults = {}
    for key, value in table.items():
        if key not in PARSERS:
            say(f"{name}: unknown key {key!r} in [tool.tracer]; known are {', '.join(PARSERS)}")
            continue
        try:
            defaults[key] = PARSERS[key](value)
        except ValueError as error:
            raise WrongUse("wrong-use", f"{name}: [tool.tracer] {key}: {error}") from error
    return defaults


class Session:
    """One traced run: an empty trace, a recorder once torch is there, a report at the very end.

    The end is our `atexit` handler. It is registered before the script's own, so it runs after
    them and after the last thread: what they still compute is recorded, and the report comes last.
    A process that was forked off runs it too and must leave the trace alone.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ending = Ending("crashed", 1)
        self.failure = ""
        self._held: TraceWriter | None = None
        self._recorder: Recorder | None = None
        self._gpus: VirtualGpus | None = None
        self._watch = TorchWatch(self._on_torch)
        self._simulation: Simulation | None = None
        self._job = children.name_of_job(os.environ) or uuid.uuid4().hex
        self._process = os.getpid()
        self._started = time.time()

    def begin(self) -> None:
        """Claim the output, so that a script without torch leaves a trace, and watch for torch.

        Raises:
            TraceUnwritable: before anything of the script ran.
        """
        self._held = TraceWriter(self.plan.output, self._info())
        children.forget()
        if self.plan.world_size is None:
            self._invite_children()
        else:
            os.environ.update(_simulated(self.plan.world_size))
        atexit.register(self.finish)
        self._watch.start()

    def _invite_children(self) -> None:
        """Ranks that the script starts by itself are found by their environment."""
        plan = self.plan
        children.invite(
            os.environ, self._job, plan.output, steps=plan.steps, every=plan.every,
            detail=plan.detail,
            command=plan.info.command, script=plan.info.script, options=plan.info.options,
        )  # fmt: skip

    def abandon(self) -> None:
        """Nothing was run: leave nothing behind."""
        atexit.unregister(self.finish)
        self._stop()
        self.plan.output.unlink(missing_ok=True)

    def finish(self) -> None:
        if os.getpid() != self._process:
            return
        try:
            self._stop()
            self._report()
        except KeyboardInterrupt:
            say(f"interrupted while summing up; the trace is {self.plan.output}")
        except TracerError as error:
            say(str(error))
        except Exception as error:  # noqa: BLE001 - the exit code is the script's, whatever breaks
            say(f"no summary, the tracer failed: {type(error).__name__}: {error}")
        if self.ending.interrupted:
            _remember_interrupt()

    def _on_torch(self) -> None:
        """Torch has just been imported, and nothing of it used."""
        self._start_gpus()
        self._start_simulation()
        self._record()

    def _start_gpus(self) -> None:
        """Put virtual devices in place; without them the script meets what the machine has."""
        if self.plan.gpus is None:
            return
        try:
            # Imports torch, which must not happen before the script does it.
            import torch

            from tracer.devices import VirtualGpus

            if torch.cuda.is_available() and not self.plan.gpus_insist:
                return  # the script's own default is for machines that have none
            gpus = VirtualGpus(self.plan.gpus, despite_real=True)
            gpus.start()
        except Exception as error:  # noqa: BLE001 - the script goes on without
            say(f"no virtual GPUs: {type(error).__name__}: {error}")
            return
        self._gpus = gpus

    def _start_simulation(self) -> None:
        """Make every process group a fake one of the size that was asked for."""
        if self.plan.world_size is None:
            return
        try:
            # Imports torch, which must not happen before the script does it.
            from tracer.record.simulation import Simulation

            simulation = Simulation(self.plan.world_size)
            simulation.start()
        except Exception as error:  # noqa: BLE001 - the script goes on without
            say(f"no simulated ranks: {type(error).__name__}: {error}")
            return
        self._simulation = simulation

    def _record(self) -> None:
        """Start recording; the script goes on without if that fails."""
        info = self.plan.info
        try:
            # Imports torch, which must not happen before the script does it.
            from tracer.record.recorder import Recorder

            recorder = Recorder(
                self.plan.output,
                steps=self.plan.steps,
                every=self.plan.every,
                detail=self.plan.detail,
                terms=self.plan.terms,
                simulation=self._simulation,
                command=info.command,
                script=info.script,
                options=info.options,
            )
            self._let_go()
            recorder.start()
        except Exception as error:  # noqa: BLE001 - the script goes on without us
            self.failure = f"{type(error).__name__}: {error}"
            return
        self._recorder = recorder

    def _stop(self) -> None:
        self._watch.stop()
        if self._recorder is not None:
            self._recorder.stop(status=self.ending.status, exit_code=self.ending.exit_code)
            self.failure = self._recorder.failure
            self.plan = replace(self.plan, output=self._recorder.output)
        else:
            self._let_go(self.ending.status, self.ending.exit_code)
        if self._gpus is not None:
            self._gpus.stop()
        if self._simulation is not None:
            self._simulation.stop()

    @property
    def _rank(self) -> int:
        return 0 if self._recorder is None else self._recorder.rank

    def _is_reported_elsewhere(self) -> bool:
        """Of a job one process speaks: who launched it, or rank 0."""
        return launch.SUMMARY in os.environ or self._rank != 0

    def _recorded_nothing(self) -> bool:
        with load(self.plan.output) as trace:
            return not trace.calls

    def _info(self) -> RunInfo:
        return replace(self.plan.info, started=self._started, failure=self.failure)

    def _let_go(self, status: str = "running", exit_code: int | None = None) -> None:
        """Close the trace that is empty as yet, which was held so that no other run takes it."""
        writer, self._held = self._held, None
        if writer is None:  # the recorder could not start
            writer = TraceWriter(self.plan.output, self._info())
        writer.close(replace(self._info(), status=status, exit_code=exit_code))

    def _report(self) -> None:
        # Reading needs networkx, which the script must not find imported because we looked on.
        from tracer.commands import report

        if self._is_reported_elsewhere():
            if self.failure:
                say(f"rank {self._rank}: recording stopped and the script went on: {self.failure}")
            return
        if self._recorded_nothing() and _report_job(self.plan, self._job):
            self.plan.output.unlink(missing_ok=True)
            return
        report.after_run(self.plan, self.failure)
        if self.ending.misses_cuda and self.plan.gpus is None:
            say("the script needs CUDA: `--gpus N` runs it on N virtual devices, with real values")


def _simulated(world: int) -> dict[str, str]:
    """What torchrun would set for the first rank, for scripts that read it."""
    return {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500",
    }  # fmt: skip


def _remember_interrupt() -> None:
    """Let the process die of the interrupt, as it would have done without us.

    Python notes that an interrupt ended the script, and clears the note when text is executed
    afterwards, which every import of a dataclass does (CPython's run_eval_code_obj).
    """
    with suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")  # noqa: S102
