# finds: warning clip-per-microbatch
"""A batch in chunks, with a clip after each."""

import torch

torch.manual_seed(0)
m = torch.nn.Linear(3, 2)
o = torch.optim.SGD(m.parameters(), lr=0.1)
for it in range(3):
    X = torch.randn(32, 3)
    Y = torch.randint(2, (32,))
    o.zero_grad()
    for x, y in zip(X.chunk(4), Y.chunk(4)):
        torch.nn.functional.cross_entropy(m(x), y).div(4).backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 0.05)  # <- here
    o.step()
