"""Functions of torch that change `.grad`: clipping, and GradScaler's unscaling and skipping."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch.amp import GradScaler
from torch.nn import utils
from torch.nn.utils import clip_grad

from tracer.events import Edit
from tracer.record.buffers import leaves_of_optimizer, read_buffers
from tracer.record.instrument import Instrument
from tracer.record.layouts import describe_readings
from tracer.record.measure import Shelf, quietly, shelf_for
from tracer.record.quiet import grad_of

__all__ = ["Edits"]

Details = dict[str, Any]


class Edits(Instrument):
    """Notes each known change of buffers, with their content before and after."""

    def start(self) -> None:
        replace = self._patches.replace
        # The inner function: `clip_grad_norm_` may have been imported by name long ago.
        replace(
            clip_grad, "_clip_grads_with_norm_", self._clip_norm(clip_grad._clip_grads_with_norm_)
        )
        clip_value = self._clip_value(clip_grad.clip_grad_value_)
        replace(clip_grad, "clip_grad_value_", clip_value)
        replace(utils, "clip_grad_value_", clip_value)
        replace(GradScaler, "_unscale_grads_", self._unscale(GradScaler._unscale_grads_))
        replace(GradScaler, "_maybe_opt_step", self._step(GradScaler._maybe_opt_step))
        replace(GradScaler, "update", self._update(GradScaler.update))

    def _clip_norm(self, clip: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(clip)
        def clip_grads_with_norm(
            parameters: Any, max_norm: float, total_norm: torch.Tensor, *args: Any, **kwargs: Any
        ) -> None:
            parameters = _listed(parameters)

            def details() -> Details:
                total, most = float(total_norm), float(max_norm)
                coefficient = min(1.0, most / (total + 1e-6))
                return {"max_norm": most, "total_norm": total, "coefficient": coefficient}

            with self._noting("clip_grad_norm", parameters, details):
                clip(parameters, max_norm, total_norm, *args, **kwargs)

        return clip_grads_with_norm

    def _clip_value(self, clip: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(clip)
        def clip_grad_value_(parameters: Any, clip_value: float, *args: Any, **kwargs: Any) -> None:
            parameters = _listed(parameters)
            with self._noting(
                "clip_grad_value", parameters, lambda: {"clip_value": float(clip_value)}
            ):
                clip(parameters, clip_value, *args, **kwargs)

        return clip_grad_value_

    def _unscale(self, unscale: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(unscale)
        def _unscale_grads_(
            scaler: Any, optimizer: Any, inv_scale: torch.Tensor, *args: Any, **kwargs: Any
        ) -> Any:
            with self._noting(
                "unscale",
                leaves_of_optimizer(optimizer) if self.recording else [],
                lambda: {"scale": 1 / float(inv_scale)},
            ):
                return unscale(scaler, optimizer, inv_scale, *args, **kwargs)

        return _unscale_grads_

    def _step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)
        def _maybe_opt_step(
            scaler: Any, optimizer: Any, state: dict[str, Any], *args: Any, **kwargs: Any
        ) -> Any:
            found = state.get("found_inf_per_device", {}).values()
            if self.recording and any(bool(flag) for flag in found):
                with self._noting(
                    "step_skipped", [], lambda: {"optimizer": type(optimizer).__qualname__}
                ):
                    return step(scaler, optimizer, state, *args, **kwargs)
            return step(scaler, optimizer, state, *args, **kwargs)

        return _maybe_opt_step

    def _update(self, update: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(update)
        def noting(scaler: Any, *args: Any, **kwargs: Any) -> None:
            if not self.recording or not scaler.is_enabled():
                update(scaler, *args, **kwargs)
                return
            before = scaler.get_scale()
            with self._noting(
                "scale_update", [], lambda: {"before": before, "after": scaler.get_scale()}
            ):
                update(scaler, *args, **kwargs)

        return noting

    @contextmanager
    def _noting(
        self, kind: str, leaves: Iterable[torch.Tensor], details: Callable[[], Details]
    ) -> Iterator[None]:
        """Read the buffers before and after what happens inside; note it if it does not raise."""
        if not self.recording:
            yield
            return
        frame = sys._getframe(2)
        filled, shelf, readings = [], shelf_for(self._journal.detail), []
        try:
            with quietly():
                users = self._sources.lines(frame)
                filled = [
                    (self._modules.buffer(leaf, users), leaf)
                    for leaf in dict.fromkeys(leaves)
                    if grad_of(leaf) is not None
                ]
                readings = read_buffers(filled, "before", shelf, self._journal)
        except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
            self._fail(error)
        yield
        if not self.recording:
            return
        try:
            with quietly():
                readings += read_buffers(filled, "after", shelf, self._journal)
                self._write(kind, details(), shelf, readings, frame)
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def _write(
        self, kind: str, details: Details, shelf: Shelf, readings: list[Any], frame: FrameType
    ) -> None:
        measured = shelf.fetch()
        self._journal.add(
            Edit(
                order=self._journal.order(),
                step=self._journal.step,
                layout=describe_readings(self._journal, measured.rows, readings),
                kind=kind,
                details=details,
                source=self._sources.here(frame),
                started=self._journal.seconds(),
                measurements=measured.measurements,
                values=measured.values,
            )
        )


def _listed(parameters: Any) -> list[torch.Tensor]:
    """The parameters as a list, which can be read twice: they may come as a generator."""
    return [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
