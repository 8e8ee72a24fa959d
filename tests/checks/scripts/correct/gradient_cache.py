# notes: sum-reduction, adam-hides-factor
"""CLIP with a gradient cache: the whole loss on embeddings, then each micro-batch with what it got."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
img, txt = nn.Linear(6, 8), nn.Linear(5, 8)
opt = torch.optim.AdamW([*img.parameters(), *txt.parameters()], 1e-3)
for s in range(3):
    I, T = torch.randn(12, 6), torch.randn(12, 5)
    with torch.no_grad():
        a, b = F.normalize(img(I), dim=1), F.normalize(txt(T), dim=1)
    a.requires_grad_()
    b.requires_grad_()
    lg = a @ b.t() / 0.07
    t = torch.arange(12)
    loss = (F.cross_entropy(lg, t) + F.cross_entropy(lg.t(), t)) / 2
    loss.backward()
    opt.zero_grad()
    for k in range(0, 12, 4):
        ea, eb = F.normalize(img(I[k : k + 4]), dim=1), F.normalize(txt(T[k : k + 4]), dim=1)
        sur = (ea * a.grad[k : k + 4]).sum() + (eb * b.grad[k : k + 4]).sum()
        sur.backward()
    opt.step()
