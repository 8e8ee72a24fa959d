"""What a CUDA build of torch adds to `torch._C`: `torch.cuda` above it stays the real code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.cuda

from tracer.devices.attributes import Attributes
from tracer.devices.machine import TOTAL_MEMORY, Gpu, Machine

__all__ = ["install"]

CUDA_VERSION = "12.8"
CAPABILITY = (8, 0)


class DeviceProperties:
    """`torch.cuda.get_device_properties()`: a card of the size and capability of an A100's."""

    def __init__(self, gpu: Gpu) -> None:
        self.name = "Virtual CUDA device"
        self.major, self.minor = CAPABILITY
        self.total_memory = TOTAL_MEMORY
        self.multi_processor_count = 108
        self.max_threads_per_multi_processor = 2048
        self.max_threads_per_block = 1024
        self.warp_size = 32
        self.regs_per_multiprocessor = 65536
        self.shared_memory_per_block = 49152
        self.shared_memory_per_block_optin = 166912
        self.shared_memory_per_multiprocessor = 167936
        self.L2_cache_size = 40 << 20
        self.is_integrated = self.is_multi_gpu_board = 0
        self.gcnArchName = self.name
        self.uuid = f"00000000-0000-0000-0000-{gpu.index:012d}"
        self.pci_bus_id = gpu.index
        self.pci_device_id = self.pci_domain_id = 0

    def __repr__(self) -> str:
        return (
            f"_CudaDeviceProperties(name='{self.name}', major={self.major}, minor={self.minor}, "
            f"total_memory={self.total_memory >> 20}MB, "
            f"multi_processor_count={self.multi_processor_count}, uuid={self.uuid}, "
            f"pci_bus_id={self.pci_bus_id}, pci_device_id=0, pci_domain_id=0, "
            f"L2_cache_size={self.L2_cache_size >> 20}MB)"
        )


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Asked for something that takes no time, or does nothing, on a GPU that is none."""


def _counter(current: int, peak: int, allocated: int) -> dict[str, dict[str, int]]:
    whole = {"current": current, "peak": peak, "allocated": allocated, "freed": allocated - current}
    none = dict.fromkeys(whole, 0)
    return {"all": whole, "small_pool": none, "large_pool": whole}


def _statistics(gpu: Gpu) -> dict[str, Any]:
    """As `_cuda_memoryStats`: bytes of living tensors; nothing is cached or reserved beyond."""
    size = _counter(gpu.allocated, gpu.peak, gpu.lifetime)
    count = _counter(gpu.allocations, gpu.allocations, gpu.allocations)
    nothing = _counter(0, 0, 0)
    sizes = ("allocated_bytes", "reserved_bytes", "active_bytes", "requested_bytes")
    return {
        **dict.fromkeys(sizes, size),
        **dict.fromkeys(("allocation", "segment", "active"), count),
        **dict.fromkeys(("inactive_split", "inactive_split_bytes"), nothing),
        **dict.fromkeys(("oversize_allocations", "oversize_segments"), nothing["all"]),
        "num_alloc_retries": 0,
        "num_ooms": 0,
        "num_sync_all_streams": 0,
        "num_device_alloc": gpu.allocations,
        "num_device_free": 0,
        "max_split_size": -1,
    }


def _forget_peak(gpu: Gpu) -> None:
    gpu.peak = gpu.allocated


def _free_and_total(gpu: Gpu) -> tuple[int, int]:
    return max(TOTAL_MEMORY - gpu.allocated, 0), TOTAL_MEMORY


def _devices(gpus: Machine) -> dict[str, Any]:
    """The current device, and questions about the others."""

    def set_current(index: int) -> None:
        gpus.current = index

    return {
        "_cuda_getDeviceCount": lambda: len(gpus),
        "_cuda_getDevice": lambda: gpus.current,
        "_cuda_setDevice": set_current,
        "_cuda_exchangeDevice": gpus.exchange,
        "_cuda_maybeExchangeDevice": gpus.exchange,
        "_cuda_canDeviceAccessPeer": lambda one, other: one != other,
        "_cuda_isInBadFork": lambda: False,
        "_cuda_getArchFlags": lambda: "sm_70 sm_75 sm_80 sm_86 sm_90",
        "_cuda_getCompiledVersion": lambda: int(CUDA_VERSION.replace(".", "0")) * 10,
        "_cuda_get_sync_debug_mode": lambda: 0,
        "_cuda_isCurrentStreamCapturing": lambda: False,
        "_CudaDeviceProperties": DeviceProperties,
        "_has_cuda": True,
        "has_cuda": True,
        **dict.fromkeys(
            ("_cuda_init", "_cuda_synchronize", "_cuda_ipc_collect", "_cuda_sleep",
             "_cuda_set_sync_debug_mode", "_cuda_clearCublasWorkspaces"),
            _ignore,
        ),
    }  # fmt: skip


def _memory(gpus: Machine) -> dict[str, Any]:
    return {
        "_cuda_memoryStats": lambda device=-1: _statistics(gpus.gpu(device)),
        "_cuda_resetPeakMemoryStats": lambda device=-1: _forget_peak(gpus.gpu(device)),
        "_cuda_memorySnapshot": lambda *args: {"segments": [], "device_traces": []},
        "_cuda_getAllocatorBackend": lambda: "native",
        "_cuda_getMemoryFraction": lambda device=-1: 1.0,
        "_cuda_cudaCachingAllocator_is_enabled": lambda: True,
        "_cuda_hostMemoryStats": dict,
        **dict.fromkeys(
            ("_cuda_emptyCache", "_cuda_setMemoryFraction", "_cuda_resetAccumulatedMemoryStats",
             "_cuda_cudaCachingAllocator_enable", "_cuda_record_memory_history",
             "_cuda_resetAccumulatedHostMemoryStats", "_cuda_resetPeakHostMemoryStats"),
            _ignore,
        ),
    }  # fmt: skip


def _accelerator(gpus: Machine) -> dict[str, Any]:
    """The same once more, for `torch.accelerator`."""

    def set_current(index: int) -> None:
        gpus.current = index

    return {
        "_accelerator_getAccelerator": lambda: torch.device("cuda"),
        "_get_accelerator": lambda check=None: torch.device("cuda"),
        "_accelerator_getDeviceIndex": lambda: gpus.current,
        "_accelerator_setDeviceIndex": set_current,
        "_accelerator_exchangeDevice": gpus.exchange,
        "_accelerator_maybeExchangeDevice": gpus.exchange,
        "_accelerator_getDeviceCapability": lambda device=-1: {"supported_dtypes": set()},
        "_accelerator_getStream": lambda device=-1: torch.cuda.current_stream(
            gpus.gpu(device).index
        ),
        "_accelerator_setStream": torch.cuda.set_stream,
        "_accelerator_isAllocatorInitialized": lambda: True,
        "_accelerator_getDeviceStats": lambda device=-1: _statistics(gpus.gpu(device)),
        "_accelerator_getMemoryInfo": lambda device=-1: _free_and_total(gpus.gpu(device)),
        "_accelerator_resetPeakStats": lambda device=-1: _forget_peak(gpus.gpu(device)),
        **dict.fromkeys(
            ("_accelerator_synchronizeDevice", "_accelerator_emptyCache",
             "_accelerator_emptyHostCache", "_accelerator_resetAccumulatedStats"),
            _ignore,
        ),
    }  # fmt: skip


def _cudart(gpus: Machine) -> SimpleNamespace:
    return SimpleNamespace(
        cudaMemGetInfo=lambda device: _free_and_total(gpus.gpu(device)),
        cudaGetErrorString=lambda code: "no error",
        cudaError=SimpleNamespace(success=0),
        **dict.fromkeys(
            ("cudaProfilerStart", "cudaProfilerStop", "cudaHostRegister", "cudaHostUnregister",
             "cudaStreamCreate", "cudaStreamDestroy"),
            lambda *args: 0,
        ),
    )  # fmt: skip


def _nvtx() -> SimpleNamespace:
    """Marks for a profiler that is not there."""
    names = ("rangePushA", "rangePop", "rangeStartA", "rangeEnd", "markA")
    return SimpleNamespace(**dict.fromkeys(names, lambda *args: 0))


def install(attributes: Attributes, gpus: Machine) -> None:
    attributes.put_all(torch._C, _devices(gpus) | _memory(gpus) | _accelerator(gpus))
    properties = [DeviceProperties(gpu) for gpu in gpus.gpus]
    cudart = _cudart(gpus)
    attributes.put_all(
        torch.cuda,
        {
            # Taken from torch._C when torch.cuda was imported.
            "_exchange_device": gpus.exchange,
            "_maybe_exchange_device": gpus.exchange,
            "_CudaDeviceProperties": DeviceProperties,
            "_get_device_properties": lambda device: properties[gpus.gpu(device).index],
            "_cudart": cudart,
            "cudart": lambda: cudart,
            "_is_in_bad_fork": lambda: False,
            # What is known after the first use of CUDA.
            "_initialized": True,
            "_cached_device_count": len(gpus),
            "_parse_visible_devices": lambda: list(range(len(gpus))),
            "_device_count_nvml": lambda: len(gpus),
        },
    )
    attributes.put(torch.backends.cuda, "is_built", lambda: True)
    # Asked by recurrent layers, with a warning where cuDNN is missing.
    attributes.put(torch.backends.cudnn, "is_acceptable", lambda tensor: False)
    attributes.put(torch.version, "cuda", CUDA_VERSION)
    attributes.put(torch.cuda.nvtx, "_nvtx", _nvtx())


def run_queued_calls() -> None:
    """Seeds that were set before CUDA was first used reach it then."""
    calls = [call for call in torch.cuda._lazy_seed_tracker.get_calls() if call]
    for call, _ in [*torch.cuda._queued_calls, *calls]:
        if call is not torch.cuda._check_capability and call is not torch.cuda._check_cubins:
            call()
