"""Several losses in one call, weighted, with uncertainty weights that are learnt."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
trunk = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
depth, label, box = nn.Linear(16, 1), nn.Linear(16, 4), nn.Linear(16, 4)
log_variance = nn.Parameter(torch.zeros(3))
parameters = [p for m in (trunk, depth, label, box) for p in m.parameters()]
optimizer = torch.optim.AdamW([*parameters, log_variance], lr=1e-3)

for step in range(3):
    x = torch.randn(12, 6)
    features = trunk(x)
    losses = torch.stack(
        [
            F.l1_loss(depth(features), x[:, :1]),
            F.cross_entropy(label(features), torch.randint(4, (12,))),
            F.smooth_l1_loss(box(features), x[:, :4]),
        ]
    )
    loss = (losses * torch.exp(-log_variance) + log_variance).sum() + 0.1 * losses[0]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
