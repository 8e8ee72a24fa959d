# finds: error clip-before-unscale
"""The clip stands in a helper, and the unscaling in the scaler's step."""

import torch


def step(model, opt, scaler):
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # <- here
    scaler.step(opt)
    scaler.update()
    opt.zero_grad()


torch.manual_seed(0)
m = torch.nn.Linear(4, 2)
o = torch.optim.AdamW(m.parameters(), lr=1e-3)
s = torch.amp.GradScaler("cpu", init_scale=65536.0)
for i in range(6):
    l = torch.nn.functional.cross_entropy(m(torch.randn(8, 4)), torch.randint(2, (8,))) / 2
    s.scale(l).backward()
    if i % 2:
        step(m, o, s)
