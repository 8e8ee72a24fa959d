"""Every backward node class of this torch has a rule, or a reason why not."""

from __future__ import annotations

import importlib
from fractions import Fraction

import pytest

from tracer.semantics import NodeFacts, effects_of, known_names

torch = pytest.importorskip("torch")

TESTED = (2, 13)
"""The version whose names the table was made from; later ones may have more."""


def names_of_torch():
    functions = torch._C._functions
    return sorted(name for name in dir(functions) if isinstance(getattr(functions, name), type))


def test_every_name_of_torch_has_a_rule_or_a_reason():
    if tuple(map(int, torch.__version__.split(".")[:2])) > TESTED:
        pytest.skip(f"the table is that of torch {TESTED}")
    known = known_names()

    assert [n for n in names_of_torch() if n.removesuffix("_copy") not in known] == []


PYTHON_FUNCTIONS = {
    "torch.nn.parallel._functions": "Broadcast ReduceAddCoalesced Gather Scatter",
    "torch.nn.parallel.distributed": "_DDPSink",
    "torch.nn.modules._functions": "BackwardHookFunction SyncBatchNorm",
    "torch.utils.checkpoint": "CheckpointFunction",
    "torch.distributed.nn.functional": (
        "_AllGather _AllGatherBase _AllReduce _AlltoAll _AlltoAllSingle _Broadcast _Gather "
        "_Reduce _Reduce_Scatter _Scatter"
    ),
}


@pytest.mark.parametrize("module", PYTHON_FUNCTIONS)
def test_the_python_functions_of_torch_are_called_as_the_table_says(module):
    home = importlib.import_module(module)
    for name in PYTHON_FUNCTIONS[module].split():
        assert issubclass(getattr(home, name), torch.autograd.Function)
        assert f"{name}Backward" in known_names()


@pytest.mark.parametrize("name", sorted(known_names()))
def test_no_rule_stumbles_over_missing_facts(name):
    """Whatever is missing, a rule answers, and its answer can be asked everything."""
    for received in ((), (None,), ((),), ((2, 3),), ((0, 3),)):
        for sent in ((), (None,), ((),), ((2, 3),), ((0,),), ((2, 3),) * 5):
            effects = effects_of(NodeFacts(name, received, sent))
            assert len(effects) == len(sent)
            for effect in effects:
                assert effect.words
                assert isinstance(effect.factor, Fraction | float | None)
                assert isinstance(effect.sum_factor, Fraction | float | None)
                assert isinstance(effect.count, int | None)
                assert isinstance(effect.summed, int | None)
