# finds: warning broadcast-loss
"""A loss class of one's own: log cosh of the residual."""

import torch, torch.nn as nn

torch.manual_seed(0)
net = nn.Linear(4, 1)
opt = torch.optim.SGD(net.parameters(), 0.1)


class LogCosh(nn.Module):
    def forward(s, p, t):
        e = p - t  # <- here
        return torch.log(torch.cosh(e + 1e-12)).mean()


f = LogCosh()
for i in range(3):
    loss = f(net(torch.randn(9, 4)), torch.randn(9))
    opt.zero_grad()
    loss.backward()
    opt.step()
