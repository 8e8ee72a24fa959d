"""Gradients by autograd.grad, weights moved by hand."""

import torch

torch.manual_seed(0)
ws = [torch.randn(3, 2, requires_grad=True), torch.zeros(2, requires_grad=True)]
for i in range(6):
    x = torch.randn(8, 3)
    l = torch.nn.functional.cross_entropy(x @ ws[0] + ws[1], torch.randint(2, (8,)))
    g = torch.autograd.grad(l, ws)
    with torch.no_grad():
        for w, d in zip(ws, g):
            w -= 0.1 * d
