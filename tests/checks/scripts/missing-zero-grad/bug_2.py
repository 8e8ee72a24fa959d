# finds: error missing-zero-grad
"""Training in a function; the buffers are emptied once an epoch."""

import torch


def fit(net, data, opt, lossf, epochs):
    for e in range(epochs):
        opt.zero_grad()
        for x, y in data:
            l = lossf(net(x), y)
            l.backward()
            opt.step()  # <- here


torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
data = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(3)]
fit(net, data, torch.optim.Adam(net.parameters()), torch.nn.L1Loss(), 2)
