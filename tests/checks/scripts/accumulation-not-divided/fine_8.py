# notes: accumulation-not-divided
"""Two environments, a backward call for each; the loss of the values has the weight 0.5."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
body, policy, value = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 1)
net = nn.ModuleList([body, policy, value])
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

for update in range(3):
    optimizer.zero_grad()
    for env in range(2):
        seen, chosen, gained = torch.randn(5, 6), torch.randint(0, 3, (5,)), torch.randn(5, 1)
        hidden = body(seen).tanh()
        loss = F.cross_entropy(policy(hidden), chosen)
        loss = loss + 0.5 * F.mse_loss(value(hidden), gained)
        loss.backward()
    optimizer.step()
