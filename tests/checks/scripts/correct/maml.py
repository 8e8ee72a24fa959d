"""Model-agnostic meta-learning: inner steps by autograd.grad, one outer call per task, averaged."""

import torch
import torch.nn.functional as F

torch.manual_seed(0)
weight = torch.randn(3, 1, requires_grad=True)
bias = torch.zeros(1, requires_grad=True)
optimizer = torch.optim.SGD([weight, bias], lr=0.05)
TASKS = 3

for step in range(3):
    optimizer.zero_grad()
    for task in range(TASKS):
        truth = torch.randn(3, 1)
        support, query = torch.randn(6, 3), torch.randn(6, 3)
        inner = F.mse_loss(support @ weight + bias, support @ truth)
        by_weight, by_bias = torch.autograd.grad(inner, (weight, bias), create_graph=True)
        fast_weight, fast_bias = weight - 0.1 * by_weight, bias - 0.1 * by_bias
        outer = F.mse_loss(query @ fast_weight + fast_bias, query @ truth)
        (outer / TASKS).backward()
    optimizer.step()
