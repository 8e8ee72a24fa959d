"""Each way in which autograd is used, recorded twice from one seed: there is no difference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.diff.runs import compared, record
from tests.record.scenarios import SCENARIOS
from tracer.analysis.diff.difference import compare
from tracer.analysis.diff.sides import Side
from tracer.errors import NothingRecorded
from tracer.tracefile import load
from tracer.views.diff import difference_text
from tracer.views.diff_headline import headline
from tracer.views.diff_json import difference_document
from tracer.views.terminal import Ink

WRITES_NO_GRAD = {
    "autograd_grad", "autograd_grad_of_an_unused_input", "batched_grad", "functional_transforms",
}  # fmt: skip
IN_ANY_ORDER = {"backward_from_several_threads"}


def recorded(name: str, path: Path) -> Path:
    torch.manual_seed(0)
    return record(path, SCENARIOS[name])


@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - WRITES_NO_GRAD))
def test_one_seed_is_one_training(name: str, tmp_path: Path) -> None:
    paths = [recorded(name, tmp_path / f"{number}.trace") for number in (1, 2)]

    with compared(paths[0], paths[1]) as found:
        assert difference_text(found, Ink())
        assert difference_document(found)["schema"] == 1
        if name not in IN_ANY_ORDER:
            assert headline(found).startswith("No difference: the same gradients")


@pytest.mark.parametrize("name", sorted(WRITES_NO_GRAD))
def test_what_writes_no_grad_has_nothing_to_compare(name: str, tmp_path: Path) -> None:
    path = recorded(name, tmp_path / "1.trace")

    with (
        load(path) as a,
        load(path) as b,
        pytest.raises(NothingRecorded, match="no backward call of it wrote"),
    ):
        compare(Side(a, "A"), Side(b, "B"))
