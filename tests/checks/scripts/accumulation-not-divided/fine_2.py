# notes: accumulation-not-divided
"""Four chunks of one sequence batch are sent backward one by one: a sum that may well be meant."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.randn(12, 20, 3), torch.randn(12, 20, 1)), batch_size=4)
rnn, head = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 1)
optimizer = torch.optim.SGD([*rnn.parameters(), *head.parameters()], lr=0.1)

for x, y in loader:
    optimizer.zero_grad()
    state = None
    for begin in range(0, 20, 5):
        out, state = rnn(x[:, begin : begin + 5], state)
        F.mse_loss(head(out), y[:, begin : begin + 5]).backward()
        state = state.detach()
    optimizer.step()
