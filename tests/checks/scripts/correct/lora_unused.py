"""LoRA: frozen weights beside trained ones."""

import torch, torch.nn as nn

torch.manual_seed(0)


class LoRA(nn.Module):
    def __init__(s):
        super().__init__()
        s.w = nn.Linear(4, 4)
        s.w.requires_grad_(False)
        s.a = nn.Parameter(torch.randn(2, 4) * 0.01)
        s.b = nn.Parameter(torch.zeros(4, 2))

    def forward(s, x):
        return s.w(x) + x @ s.a.T @ s.b.T


m = LoRA()
o = torch.optim.AdamW(m.parameters(), lr=1e-3)
for i in range(3):
    o.zero_grad()
    (m(torch.randn(5, 4)) - 1).pow(2).mean().backward()
    o.step()
