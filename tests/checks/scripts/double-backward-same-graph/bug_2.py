# finds: warning double-backward-same-graph
"""An auxiliary loss is sent backward, and once more within the total."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
enc = nn.Linear(4, 6)
a = nn.Linear(6, 2)
d = nn.Linear(6, 4)
opt = torch.optim.Adam([*enc.parameters(), *a.parameters(), *d.parameters()])
for i in range(3):
    x = torch.randn(5, 4)
    h = torch.relu(enc(x))
    rec = F.mse_loss(d(h), x)
    cls = F.cross_entropy(a(h), torch.randint(2, (5,)))
    opt.zero_grad()
    rec.backward(retain_graph=True)
    total = rec + cls
    total.backward()  # <- here
    opt.step()
