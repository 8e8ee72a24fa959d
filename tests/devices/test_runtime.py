"""What a script asks of `torch.cuda` and `torch.accelerator`."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from torch import nn

from tracer.devices import virtual_gpus


def gpu(index: int = 0) -> torch.device:
    return torch.device("cuda", index)


def test_the_machine_has_as_many_gpus_as_were_asked_for() -> None:
    for count in (1, 3):
        with virtual_gpus(count):
            assert torch.cuda.is_available()
            assert torch.cuda.device_count() == torch.accelerator.device_count() == count
            assert torch.accelerator.is_available()
            assert torch.get_device_module() is torch.cuda
            assert torch.accelerator.current_accelerator() == torch.device("cuda")
    assert not torch.cuda.is_available()


def test_a_gpu_tells_its_name_and_properties(two_gpus: None) -> None:
    assert "Virtual" in torch.cuda.get_device_name(1)
    properties = torch.cuda.get_device_properties(0)
    assert properties.total_memory > 2**30
    assert (properties.major, properties.minor) == torch.cuda.get_device_capability()
    assert "total_memory" in repr(properties)
    assert torch.cuda.is_bf16_supported()
    assert torch.version.cuda
    assert torch.backends.cuda.is_built()
    assert torch.cuda.can_device_access_peer(0, 1)
    assert "sm_80" in torch.cuda.get_arch_list()


def test_the_current_device_is_where_new_tensors_go(two_gpus: None) -> None:
    torch.cuda.set_device(1)
    assert torch.cuda.current_device() == torch.accelerator.current_device_index() == 1
    assert torch.zeros(2).cuda().device == torch.zeros(2, device="cuda").device == gpu(1)
    assert torch.zeros(2).to("cuda").get_device() == 1
    with torch.cuda.device(0):
        assert torch.ones(1, device="cuda").device == gpu(0)
    with torch.cuda.device_of(torch.ones(1, device="cuda:0")):
        assert torch.cuda.current_device() == 0
    assert torch.cuda.current_device() == 1
    torch.cuda.set_device("cuda:0")
    assert torch.cuda.current_device() == 0


def test_each_thread_has_a_current_device_of_its_own(two_gpus: None) -> None:
    seen = []

    def work() -> None:
        seen.append(torch.cuda.current_device())
        torch.cuda.set_device(1)
        seen.append(torch.zeros(1, device="cuda").get_device())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen == [0, 1]
    assert torch.cuda.current_device() == 0


def test_a_gpu_that_is_not_there_is_refused(two_gpus: None) -> None:
    for ask in (
        lambda: torch.ones(1, device="cuda:2"),
        lambda: torch.ones(1).cuda(5),
        lambda: torch.cuda.set_device(2),
    ):
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            ask()


def test_a_number_is_a_gpu(two_gpus: None) -> None:
    assert torch.device(1) == gpu(1)
    assert torch.ones(1, device=1).device == gpu(1)
    assert torch.ones(1).to(1).device == gpu(1)
    assert torch.ones(1).new_zeros(2, device=1).device == gpu(1)
    assert nn.Linear(2, 2).to(1).weight.device == gpu(1)
    assert nn.Linear(2, 2, device=1).weight.device == gpu(1)
    assert isinstance(torch.device("cpu"), torch.device)


def test_the_default_device_can_be_a_gpu(two_gpus: None) -> None:
    torch.set_default_device("cuda")
    try:
        assert torch.tensor([1.0]).device == gpu(0)
        assert nn.Linear(2, 2).weight.is_cuda
    finally:
        torch.set_default_device(None)
    with torch.device("cuda:1"):
        assert torch.zeros(2).device == torch.tensor(1).device == gpu(1)
    assert torch.ones(1).device.type == "cpu"


@pytest.mark.filterwarnings("ignore:torch.set_default_tensor_type:UserWarning")
def test_the_default_tensor_type_of_old_scripts(two_gpus: None) -> None:
    torch.set_default_tensor_type(torch.cuda.FloatTensor)
    try:
        assert torch.zeros(2).is_cuda
    finally:
        torch.set_default_tensor_type(torch.FloatTensor)
    assert not torch.zeros(2).is_cuda


def test_memory_is_counted_and_given_back(two_gpus: None) -> None:
    before = torch.cuda.memory_allocated()
    x = torch.empty(1024, 1024, device="cuda")
    view = x[0]
    assert torch.cuda.memory_allocated() - before == 4 * 2**20
    del x
    assert torch.cuda.memory_allocated() - before == 4 * 2**20
    del view
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() >= before + 4 * 2**20
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == before
    assert torch.cuda.memory_reserved() >= before
    free, total = torch.cuda.mem_get_info()
    assert free <= total
    assert "CUDA memory summary" in torch.cuda.memory_summary()
    torch.cuda.empty_cache()
    assert torch.accelerator.memory_allocated() == before


def test_streams_and_events_keep_their_identity_and_the_time(two_gpus: None) -> None:
    stream, other = torch.cuda.Stream(), torch.cuda.Stream(1, priority=-1)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream() == stream
        start.record()
        y = torch.ones(9, device="cuda").sum()
        end.record()
    y.record_stream(stream)
    torch.cuda.current_stream().wait_stream(stream)
    stream.synchronize()
    end.synchronize()
    torch.cuda.synchronize()
    torch.cuda.synchronize(1)

    assert start.elapsed_time(end) >= 0
    assert end.query()
    assert stream.query()
    assert torch.cuda.current_stream() == torch.cuda.default_stream() != stream
    assert other.device == gpu(1)
    with torch.cuda.stream(other):
        assert torch.cuda.current_device() == 1
    assert torch.cuda.current_device() == 0
    with pytest.raises(ValueError, match="enable_timing"):
        torch.cuda.Event().elapsed_time(end)


def test_seeds_make_the_numbers_of_each_gpu_come_again(two_gpus: None) -> None:
    for seed in (torch.manual_seed, torch.cuda.manual_seed_all):
        seed(3)
        first = [torch.randn(3, device=gpu(k)) for k in (0, 1)]
        seed(3)
        again = [torch.randn(3, device=gpu(k)) for k in (0, 1)]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.cuda.initial_seed() == 3
    state = torch.cuda.get_rng_state(1)
    drawn = torch.rand(2, device="cuda:1")
    torch.cuda.set_rng_state(state, 1)
    assert torch.equal(drawn, torch.rand(2, device="cuda:1"))
    assert len(torch.cuda.get_rng_state_all()) == 2


def test_a_seed_set_before_there_were_gpus_reaches_them() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(11)
        with virtual_gpus(1):
            drawn.append(torch.randn(3, device="cuda").tolist())
    assert drawn[0] == drawn[1]


def test_drawing_on_a_gpu_does_not_move_the_numbers_of_the_cpu(two_gpus: None) -> None:
    torch.manual_seed(5)
    alone = torch.rand(3)
    torch.manual_seed(5)
    x = torch.rand(7, device="cuda")
    torch.nn.functional.rrelu(x - 1, training=True)
    torch.nn.functional.dropout(x)

    assert torch.equal(alone, torch.rand(3))


def test_a_generator_draws_on_its_own_kind_of_device(two_gpus: None) -> None:
    generator = torch.Generator(device="cuda")
    generator.manual_seed(3)
    first = torch.randn(3, device="cuda", generator=generator)
    state = generator.get_state()
    second = torch.empty(2, device="cuda").normal_(generator=generator)
    assert torch.equal(first, torch.randn(3, device="cuda", generator=generator.manual_seed(3)))
    generator.set_state(state)
    assert torch.equal(second, torch.empty(2, device="cuda").normal_(generator=generator))
    assert generator.initial_seed() == 3
    assert generator.device.type == "cuda"
    assert isinstance(generator, torch.Generator)
    assert isinstance(torch.default_generator, torch.Generator)
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator"):
        torch.randn(3, generator=generator)
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.randn(3, device="cuda", generator=torch.Generator())


def test_a_fork_of_the_generators_leaves_them_as_they_were(two_gpus: None) -> None:
    torch.manual_seed(1)
    with torch.random.fork_rng(devices=[0, 1]):
        inside = torch.rand(2, device="cuda:1")
    assert torch.equal(inside, torch.rand(2, device="cuda:1"))


def test_flags_and_marks_of_cuda_can_be_set(two_gpus: None) -> None:
    with torch.backends.cudnn.flags(enabled=False, deterministic=True, benchmark=True):
        nn.Conv2d(1, 1, 2).cuda()(torch.ones(1, 1, 3, 3, device="cuda"))
    torch.cuda.nvtx.range_push("step")
    torch.cuda.nvtx.range_pop()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.ones(2, device="cuda") + 1
    assert "aten::add" in profile.key_averages().table(row_limit=50)


def test_compiled_parts_run_eagerly_and_say_so(two_gpus: None) -> None:
    net = nn.Linear(2, 2).cuda()
    with pytest.warns(UserWarning, match="runs eagerly"):
        compiled = torch.compile(net)
    assert compiled(torch.ones(1, 2, device="cuda")).is_cuda

    with pytest.warns(UserWarning, match="runs eagerly"):

        @torch.compile(dynamic=True)
        def double(x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    assert double(torch.ones(1, device="cuda")).item() == 2


def test_recurrent_layers_do_not_warn_of_a_missing_cudnn(two_gpus: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.LSTM(2, 3).cuda()(torch.ones(1, 1, 2, device="cuda"))
