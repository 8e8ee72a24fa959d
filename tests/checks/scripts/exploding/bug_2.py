# finds: note exploding
"""A recurrent net, unrolled by hand, whose matrix makes vectors longer at each of 30 steps."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(2, 8), nn.Linear(8, 1)
        self.again = nn.Linear(8, 8, bias=False)
        nn.init.orthogonal_(self.again.weight, gain=2.2)

    def forward(self, x):
        state = torch.zeros(x.shape[1], 8)
        for one in x:
            state = torch.relu(self.enter(one) + self.again(state))
        return self.leave(state)


torch.manual_seed(0)
net = Net()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
for step in range(2):
    optimizer.zero_grad()
    nn.functional.mse_loss(net(torch.randn(30, 4, 2)), torch.zeros(4, 1)).backward()
    optimizer.step()
