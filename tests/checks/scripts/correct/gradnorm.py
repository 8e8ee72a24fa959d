"""GradNorm: weights of tasks that learn from the norms of gradients, with a backward call of their own."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
body, a, b = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)
w = nn.Parameter(torch.ones(2))
opt = torch.optim.Adam([*body.parameters(), *a.parameters(), *b.parameters()], 1e-3)
ow = torch.optim.SGD([w], 0.025)
for i in range(3):
    h = body(torch.randn(10, 6)).relu()
    L = torch.stack(
        [F.cross_entropy(a(h), torch.randint(3, (10,))), F.mse_loss(b(h), torch.randn(10, 1))]
    )
    opt.zero_grad()
    (w.detach() * L).sum().backward(retain_graph=True)
    ow.zero_grad()
    G = torch.stack(
        [
            torch.autograd.grad(w[k] * L[k], body.weight, create_graph=True, retain_graph=True)[
                0
            ].norm()
            for k in range(2)
        ]
    )
    (G - G.mean().detach()).abs().sum().backward(inputs=[w])
    ow.step()
    opt.step()
