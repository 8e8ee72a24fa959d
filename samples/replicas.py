# /// script
# dependencies = ["torch"]
#
# [tool.tracer]
# gpus = 2
# ///
"""When a batch is split over two GPUs, are the gradients of the replicas summed or averaged?

`DataParallel` adds them. To tell them apart, each replica multiplies its half of the batch by a
factor of its own: 1 and 2, then 1 and 5. The mean over the gathered output gives each half a weight
of 1/2, so one backward call leaves 1.5 and then 3 in ``w.grad``, and further calls add to it: 1.5,
3, 4.5 and 3, 6, 9. It makes no difference whether `w` is a parameter, which `DataParallel`
broadcasts, or a plain tensor that the module merely knows and every replica copies for itself.

Without GPUs, or with a single one, there is one replica; its factor is 1, and one sees 1, 2, 3. So
a printed 3 alone does not say how it came about.
"""

import torch
from torch import Tensor, nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPUS = list(range(torch.cuda.device_count()))[:2]


def factor_on(device: torch.device, factors: list[int]) -> int:
    """The factor of the replica that lives there; a device without a number has the only one."""
    return factors[device.index or 0]


class WithCapturedTensor(nn.Module):
    """Knows `w` without owning it: in a list, it is neither moved nor broadcast with the module."""

    def __init__(self, w: Tensor, factors: list[int]) -> None:
        super().__init__()
        self.captured = [w]
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        w = self.captured[0].to(x.device)
        return w * x * factor_on(x.device, self.factors)


class WithParameter(nn.Module):
    """Owns `w`, so that each replica works with the copy that was broadcast to it."""

    def __init__(self, factors: list[int]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x * factor_on(x.device, self.factors)


def gradients(model: nn.Module, w: Tensor) -> list[float]:
    """What ``w.grad`` reads after one, two and three backward calls."""
    parallel = nn.DataParallel(model, device_ids=GPUS)
    x = torch.ones(4, 1, device=DEVICE)
    seen = []
    for _ in range(3):
        parallel(x).mean().backward()
        seen.append(w.grad.item())
    return seen


for factors in ([1, 2], [1, 5]):
    w = torch.ones(1, device=DEVICE, requires_grad=True)
    captured = gradients(WithCapturedTensor(w, factors), w)

    owner = WithParameter(factors).to(DEVICE)
    owned = gradients(owner, owner.w)

    for form, values in (("captured tensor", captured), ("parameter", owned)):
        print(f"factors {factors}, {form:15}  w.grad =", ", ".join(f"{v:g}" for v in values))
