"""Names are paths in the root module; wrappers do not show, several roots do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.graph.sketch import Grad, Op, Sketch
from tracer.errors import UnknownName
from tracer.graph.build import build
from tracer.graph.names import matching

NAMES = ["backbone.0.conv.weight", "backbone.1.conv.weight", "head.bias", "head.weight"]


def named(path: Path, *modules: tuple[str, str], parameter: str) -> str:
    """How a parameter of a root with these modules (path and class) is shown."""
    sketch = Sketch(path)
    root = sketch.module(modules[0][1], variable="model")
    for where, kind in modules[1:]:
        sketch.module(kind, where, root)
    w = sketch.buffer(parameter, module=root)
    sketch.call([Op("SumBackward0"), Op("AccumulateGrad", buffer=w)], [(0, 1, Grad((1,)))])
    return str(build(sketch.close()).nodes["b0"]["name"])


@pytest.mark.parametrize("wrapper", ["DataParallel", "DistributedDataParallel"])
def test_the_module_of_a_wrapper_does_not_show(tmp_path: Path, wrapper: str) -> None:
    modules = (("", wrapper), ("module", "Net"), ("module.fc", "Linear"))

    assert named(tmp_path / "t.trace", *modules, parameter="module.fc.weight") == "fc.weight"


def test_a_module_that_the_user_called_module_shows(tmp_path: Path) -> None:
    modules = (("", "Net"), ("module", "Linear"))

    assert named(tmp_path / "t.trace", *modules, parameter="module.weight") == "module.weight"


@pytest.mark.parametrize(
    "attribute", ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"]
)
def test_attributes_of_wrappers_do_not_show(tmp_path: Path, attribute: str) -> None:
    modules = (("", "Net"), ("fc", "Wrapper"), (f"fc.{attribute}", "Linear"))
    parameter = f"fc.{attribute}.weight"

    assert named(tmp_path / "t.trace", *modules, parameter=parameter) == "fc.weight"


def test_several_roots_prefix_the_names_of_their_parameters(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace")
    roots = [sketch.module("Net", variable=name) for name in ("netG", "netD")]
    leaves = [sketch.buffer("main.0.weight", module=root) for root in roots]
    sketch.call(
        [Op("SumBackward0"), *(Op("AccumulateGrad", buffer=leaf) for leaf in leaves)],
        [((0, 0), 1, Grad((1,))), ((0, 1), 2, Grad((1,)))],
    )
    graph = build(sketch.close())

    assert graph.nodes["b0"]["name"] == "netG.main.0.weight"
    assert graph.nodes["b1"]["name"] == "netD.main.0.weight"


def test_a_leaf_without_a_name_is_called_by_its_key(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace")
    leaf = sketch.buffer("")
    sketch.call([Op("SumBackward0"), Op("AccumulateGrad", buffer=leaf)], [(0, 1, Grad((1,)))])

    assert build(sketch.close()).nodes["b0"]["name"] == "b0"


def test_the_end_of_a_name_is_enough_if_only_one_ends_so() -> None:
    assert matching("head.bias", NAMES) == "head.bias"
    assert matching("bias", NAMES) == "head.bias"
    assert matching("1.conv.weight", NAMES) == "backbone.1.conv.weight"


def test_an_end_is_a_whole_component() -> None:
    with pytest.raises(UnknownName):
        matching("ias", NAMES)


def test_an_end_that_several_share_lists_them() -> None:
    with pytest.raises(UnknownName, match=r"can be 2 parameters \(backbone.0.conv.weight, back"):
        matching("conv.weight", NAMES)


def test_an_unknown_name_lists_what_comes_near() -> None:
    with pytest.raises(UnknownName, match=r"no parameter is called 'head.wieght'; near it: head"):
        matching("head.wieght", NAMES)
