# finds: warning accumulation-not-divided x 5
# notes: decay-ratio
"""Micro-steps with batches of one's own drawing, no DataLoader."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Linear(5, 3)
opt = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=1e-4)
X, Y = torch.randn(64, 5), torch.randint(3, (64,))


def get_batch(n):
    ix = torch.randint(64, (n,))
    return X[ix], Y[ix]


gradient_accumulation_steps = 5
for it in range(3):
    for micro_step in range(gradient_accumulation_steps):
        x, y = get_batch(8)
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()  # <- here
    opt.step()
    opt.zero_grad(set_to_none=True)
