"""What a tensor is measured as: numbers against plain torch, and the fingerprint's linearity."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import pytest
import torch

import tracer
from tracer.analysis.balance import check_balance
from tracer.events import ROW_WIDTH
from tracer.record.measure import Shelf


def measured(*tensors: torch.Tensor) -> list[list[float]]:
    shelf = Shelf()
    for tensor in tensors:
        assert shelf.add(tensor) is not None
    numbers = array("f", shelf.fetch().measurements)
    return [list(numbers[i : i + ROW_WIDTH]) for i in range(0, len(numbers), ROW_WIDTH)]


def fingerprint(tensor: torch.Tensor) -> torch.Tensor:
    return torch.tensor(measured(tensor)[0][5:], dtype=torch.float64)


@pytest.mark.parametrize("elements", [1, 16, 17, 1023, 1024, 1025, 5000, 300_000])
def test_sum_norm_and_largest_are_those_of_the_tensor(elements: int) -> None:
    tensor = torch.randn(elements, dtype=torch.float64)

    total, _, norm, largest, nonfinite, *_ = measured(tensor)[0]

    assert total == pytest.approx(tensor.sum().item(), abs=1e-6 * norm)
    assert norm == pytest.approx(tensor.norm().item(), rel=1e-6)
    assert largest == pytest.approx(tensor.abs().max().item(), rel=1e-6)
    assert nonfinite == 0


@pytest.mark.parametrize("elements", [3, 1000, 70_000])
def test_the_fingerprint_of_a_sum_is_the_sum_of_fingerprints(elements: int) -> None:
    a, b = torch.randn(elements), torch.randn(elements)

    together = fingerprint(a + 3 * b)

    assert torch.allclose(
        together, fingerprint(a) + 3 * fingerprint(b), atol=1e-5 * math.sqrt(elements)
    )


def test_fingerprints_tell_permuted_elements_apart() -> None:
    tensor = torch.randn(5000)

    difference = fingerprint(tensor) - fingerprint(tensor[torch.randperm(5000)])

    assert difference.abs().max() > 1


def test_fingerprints_have_the_norm_as_their_spread() -> None:
    tensors = [torch.randn(5000) for _ in range(200)]

    squares = torch.stack([fingerprint(t).square() / t.norm() ** 2 for t in tensors])

    assert squares.mean().item() == pytest.approx(1, abs=0.1)


def test_the_fingerprint_follows_logical_order_not_memory() -> None:
    tensor = torch.randn(70, 50)
    transposed_in_memory = tensor.t().contiguous().t()

    assert torch.equal(fingerprint(tensor), fingerprint(transposed_in_memory))


def test_the_signs_are_the_same_on_every_machine() -> None:
    # Written down once: traces of other ranks, machines and versions must compare.
    assert fingerprint(torch.eye(3)[1]).tolist() == [-1, -1, 1, -1, -1, 1, -1, 1]
    assert fingerprint(torch.ones(2000)).tolist() == [6, -6, -8, -98, 22, 0, 12, -48]


@pytest.mark.parametrize("elements", [17, 1024, 33_333])
def test_an_expanded_scalar_measures_as_the_tensor_it_stands_for(elements: int) -> None:
    scalar = torch.tensor(-0.3)

    expanded, dense = measured(scalar.expand(elements), scalar.expand(elements).contiguous())

    assert expanded == pytest.approx(dense, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("shape", [(), (3,), (40,)])
def test_zeros_without_memory_measure_as_zeros(shape: tuple[int, ...]) -> None:
    shelf = Shelf()
    shelf.add(torch._efficientzerotensor(shape))
    shelf.add(torch.zeros(shape))

    measured = shelf.fetch()

    half = len(measured.measurements) // 2
    assert measured.measurements[:half] == measured.measurements[half:]
    assert not any(measured.values)


def test_a_sparse_gradient_measures_as_the_dense_one() -> None:
    where = torch.tensor([[5, 900, 5, 3]])
    sparse = torch.sparse_coo_tensor(where, torch.randn(4, 6), (1000, 6))

    found, dense = measured(sparse, sparse.to_dense())

    assert found == pytest.approx(dense, rel=1e-5, abs=1e-5)


def test_complex_numbers_have_complex_sums_and_magnitudes() -> None:
    tensor = torch.tensor([3 + 4j, 1 - 1j])

    real, imaginary, norm, largest, *_ = measured(tensor)[0]

    assert (real, imaginary) == (4, 3)
    assert norm == pytest.approx(math.sqrt(27))
    assert largest == 5


def test_nonfinite_elements_are_counted() -> None:
    row = measured(torch.tensor([1.0, math.inf, math.nan, -math.inf]))[0]

    assert row[4] == 3


def test_a_norm_outside_float32_squares_is_right() -> None:
    large, small = measured(torch.full((100,), 1e25), torch.full((100,), 1e-30))

    assert large[2] == pytest.approx(1e26, rel=1e-6)
    assert small[2] == pytest.approx(1e-29, rel=1e-6)


def test_modes_and_autocast_of_the_user_do_not_see_the_measuring() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    tensor = torch.randn(5000)
    expected = measured(tensor)
    counter = FlopCounterMode(display=False)

    with counter, torch.autocast("cpu", dtype=torch.bfloat16):
        found = measured(tensor)

    assert found == expected
    assert counter.get_total_flops() == 0


def test_reduced_matmul_precision_of_the_user_does_not_blur_the_fingerprint() -> None:
    tensor = torch.randn(5000)
    expected = fingerprint(tensor)

    torch.set_float32_matmul_precision("medium")
    try:
        found = fingerprint(tensor)
    finally:
        torch.set_float32_matmul_precision("highest")

    assert torch.allclose(found, expected, atol=1e-3)


def test_a_large_transposed_gradient_that_goes_on_alone_is_projected_once(tmp_path: Path) -> None:
    weight, x = torch.randn(200, 300, requires_grad=True), torch.randn(50, 300)

    with tracer.Recorder(tmp_path / "run.trace"):
        (x @ weight.t()).square().mean().backward()

    with tracer.load(tmp_path / "run.trace") as trace:
        call = trace.calls[0]
        layout, rows = trace.layout(call.layout), trace.measurements(call)
        assert layout.structure is not None
        structure = trace.structure(layout.structure)
        sent = {
            structure.nodes[structure.edges[c.edge].sender].name: rows[c.row]
            for c in layout.contributions
            if c.row is not None
        }
        turned, straight = sent["MmBackward0"], sent["TBackward0"]
        assert weight.grad is not None
        assert turned.fingerprint == ()
        assert turned.norm == straight.norm == pytest.approx(weight.grad.norm().item(), rel=1e-5)
        assert straight.sum == pytest.approx(weight.grad.sum().item(), rel=1e-3)
        assert straight.fingerprint == pytest.approx(
            fingerprint(weight.grad).tolist(), rel=1e-4, abs=1e-4
        )
        assert check_balance(trace).is_balanced


def test_a_buffer_changed_behind_its_version_is_measured_again() -> None:
    buffer = torch.randn(40_001)
    shelf = Shelf()

    shelf.add(buffer, recalled=True)
    shelf.add(buffer, recalled=True)
    version = buffer._version
    buffer.data[17] *= -3
    assert buffer._version == version
    shelf.add(buffer, recalled=True)
    numbers = array("f", shelf.fetch().measurements)

    first, again, changed = (list(numbers[i : i + ROW_WIDTH]) for i in (0, 13, 26))
    assert first == again
    assert changed == measured(buffer)[0] != first


def test_a_small_buffer_in_the_next_event_has_the_numbers_of_its_copy_until_it_changes() -> None:
    buffer = torch.randn(3000)
    call, step = Shelf(), Shelf()
    call.add(buffer, kept=True)
    first = array("f", call.fetch().measurements)

    step.add(buffer, recalled=True)
    buffer.data[2999] *= -3
    step.add(buffer, recalled=True)
    numbers = array("f", step.fetch().measurements)

    assert numbers[:ROW_WIDTH] == first
    assert list(numbers[ROW_WIDTH:]) == measured(buffer)[0] != list(first)


@pytest.mark.parametrize("elements", [1, 16, 5000])
def test_a_small_buffer_is_told_from_what_lay_at_its_address(elements: int) -> None:
    memory = torch.randn(elements)
    shelf = Shelf()
    shelf.add(memory, kept=True)
    shelf.fetch()
    other = memory.view(torch.int32).view(torch.float32)[: elements // 2 + 1]

    found = Shelf()
    found.add(other, recalled=True)
    fetched = found.fetch()

    assert list(array("f", fetched.measurements)) == measured(other)[0]
    assert array("f", fetched.values).tolist() == (other.tolist() if len(other) <= 16 else [])


def test_an_edit_of_small_gradients_behind_their_version_is_what_the_step_consumes(
    tmp_path: Path,
) -> None:
    weight = torch.ones(40, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)

    with tracer.Recorder(tmp_path / "run.trace"):
        for divisor in (1, 4):
            optimizer.zero_grad()
            (weight * torch.arange(40.0)).sum().backward()
            assert weight.grad is not None
            weight.grad.data /= divisor
            optimizer.step()

    with tracer.load(tmp_path / "run.trace") as trace:
        norms = [trace.measurements(step)[0].norm for step in trace.steps]
    assert norms[0] == pytest.approx(torch.arange(40.0).norm().item())
    assert norms[1] == norms[0] / 4


@pytest.mark.parametrize(
    ("changed", "largest"),
    [
        (lambda t: t, 9.5),
        (lambda t: -t, 9.5),
        (lambda t: t.abs(), 9.5),
        (lambda t: -t.abs() - 0.5, 10.0),
        (lambda t: t * 0, 0.0),
        (lambda t: t.double(), 9.5),
    ],
    ids=["as it is", "negated", "positive", "negative", "zeros", "double"],
)
def test_the_largest_number_of_a_large_tensor_of_either_sign(changed, largest) -> None:  # type: ignore[no-untyped-def]
    tensor = torch.randn(300_000).clamp(-5, 5)
    tensor[250_001] = 9.5

    row = measured(changed(tensor))[0]

    assert row[3] == largest
    assert math.copysign(1, row[3]) == 1


@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 299_999])
def test_what_is_not_finite_in_a_large_tensor_is_counted(value: float, place: int) -> None:
    tensor = torch.randn(300_000)
    tensor[place] = value

    row = measured(tensor)[0]

    assert row[4] == 1
    assert math.isnan(row[3]) if math.isnan(value) else row[3] == math.inf


@pytest.mark.parametrize("shape", [(3000, 1700), (5_000_001,), (40, 70, 50, 41)])
def test_large_tensors_in_any_memory_order_measure_as_their_copies(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape)
    turned = tensor.permute(*reversed(range(len(shape)))).contiguous()

    found = measured(turned.permute(*reversed(range(len(shape)))))[0]

    assert found == pytest.approx(measured(tensor)[0], rel=1e-4, abs=0.5)
    assert found[5:] == pytest.approx(measured(tensor.double())[0][5:], rel=1e-3, abs=0.5)


def test_what_is_measured_does_not_depend_on_what_is_measured_beside_it() -> None:
    tensors = [torch.randn(n) for n in (1, 17, 1024, 3000, 16_000, 64)]

    assert measured(*tensors) == [measured(tensor)[0] for tensor in tensors]


def test_more_small_tensors_than_one_arena_holds() -> None:
    tensors = [torch.full((900 + i,), float(i)) for i in range(1, 1200)]

    found = measured(*tensors)

    assert [row[3] for row in found] == [float(i) for i in range(1, 1200)]
    assert found[1000] == measured(tensors[1000])[0]
