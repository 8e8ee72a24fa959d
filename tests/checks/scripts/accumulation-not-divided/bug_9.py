# finds: warning accumulation-not-divided x 4
"""Adam behind a clip that has something to do in one of two windows: one finding, nothing hidden."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
grad_accum = 4
for number in range(8):
    x, y = torch.randn(4, 4) * (3 if number < 4 else 0.01), torch.randint(2, (4,))
    nn.functional.cross_entropy(net(x), y).backward()  # <- here
    if (number + 1) % grad_accum == 0:
        nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()
