"""Deep Q-learning with shapes as they should be."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
q = nn.Linear(4, 2)
t = nn.Linear(4, 2)
o = torch.optim.AdamW(q.parameters(), lr=1e-4, amsgrad=True)
for i in range(4):
    s, a, r, n = torch.randn(16, 4), torch.randint(2, (16, 1)), torch.randn(16), torch.randn(16, 4)
    v = q(s).gather(1, a)
    with torch.no_grad():
        y = r + 0.99 * t(n).max(1).values
    loss = F.smooth_l1_loss(v, y.unsqueeze(1))
    o.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_value_(q.parameters(), 100)
    o.step()
