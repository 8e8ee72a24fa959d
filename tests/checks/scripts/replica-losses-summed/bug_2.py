# finds: warning replica-losses-summed x 2
# notes: decay-ratio
# gpus: 2
"""The model returns a dict with its loss, as those of jiant do."""

import torch, torch.nn as nn

torch.manual_seed(0)


class M(nn.Module):
    def __init__(s):
        super().__init__()
        s.l = nn.Linear(4, 3)

    def forward(s, x, y):
        o = s.l(x)
        return {"loss": nn.functional.cross_entropy(o, y), "n": torch.tensor(len(y)).to(x.device)}


m = nn.DataParallel(M().cuda())
opt = torch.optim.SGD(m.parameters(), lr=0.1, weight_decay=1e-4)
for i in range(3):
    out = m(torch.randn(8, 4).cuda(), torch.randint(3, (8,)).cuda())
    loss = out["loss"].sum()  # <- here
    opt.zero_grad()
    loss.backward()
    opt.step()
