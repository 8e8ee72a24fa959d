"""A VAE: sums over pixels, a mean over the batch."""

import torch, torch.nn as nn

torch.manual_seed(0)
e = nn.Linear(6, 4)
d = nn.Linear(2, 6)
o = torch.optim.Adam([*e.parameters(), *d.parameters()], 1e-3)
for i in range(3):
    x = torch.rand(10, 6)
    mu, lv = e(x).chunk(2, 1)
    z = mu + torch.randn_like(mu) * (lv / 2).exp()
    rec = nn.functional.binary_cross_entropy_with_logits(d(z), x, reduction="none").sum(1)
    kl = -0.5 * (1 + lv - mu**2 - lv.exp()).sum(1)
    loss = (rec + kl).mean()
    o.zero_grad()
    loss.backward()
    o.step()
