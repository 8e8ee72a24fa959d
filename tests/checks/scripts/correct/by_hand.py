"""No optimizer and no modules: plain tensors, updated and emptied by hand."""

import torch

torch.manual_seed(0)
x = torch.linspace(-3.14, 3.14, 50)
y = torch.sin(x)
a, b, c = (torch.randn((), requires_grad=True) for _ in range(3))

for step in range(6):
    prediction = a + b * x + c * x**2
    loss = (prediction - y).pow(2).mean()
    loss.backward()
    with torch.no_grad():
        for parameter in (a, b, c):
            parameter -= 1e-3 * parameter.grad
            parameter.grad = None
