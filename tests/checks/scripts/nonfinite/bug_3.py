# finds: error nonfinite
"""A cosine by hand, of a padding vector that is zero."""

import torch

torch.manual_seed(0)
E = torch.nn.Embedding(5, 3, padding_idx=0)
opt = torch.optim.SGD(E.parameters(), lr=0.1)
for i in range(3):
    u = E(torch.tensor([0, 1, 2]))
    v = E(torch.tensor([0, 3, 4]))
    n = u / u.norm(dim=1, keepdim=True).clamp(min=0)
    loss = (
        (u * v).sum(1) / (u.pow(2).sum(1).sqrt() * v.pow(2).sum(1).sqrt() + 1e-9)  # <- here
    ).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
