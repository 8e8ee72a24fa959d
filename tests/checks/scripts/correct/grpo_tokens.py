"""GRPO: micro-batches divided by the tokens of the whole step."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
m = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))
opt = torch.optim.AdamW(m.parameters(), 1e-4)
M = 2
for s in range(3):
    ids = torch.randint(20, (8, 7))
    mask = (torch.arange(6)[None] < torch.randint(2, 7, (8, 1))).float()
    adv = torch.randn(8)
    total = mask.sum()
    with torch.no_grad():
        old = m(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    for mb in range(0, 8, 8 // M):
        sl = slice(mb, mb + 8 // M)
        lp = m(ids[sl, :-1]).log_softmax(-1).gather(2, ids[sl, 1:, None])[..., 0]
        r = (lp - old[sl]).exp()
        a = adv[sl, None]
        loss = -(torch.min(r * a, r.clamp(0.8, 1.2) * a) * mask[sl]).sum() / total
        loss.backward()
    nn.utils.clip_grad_norm_(m.parameters(), 0.1)
    opt.step()
    opt.zero_grad()
