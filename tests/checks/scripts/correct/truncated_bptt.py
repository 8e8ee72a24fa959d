"""Truncated backpropagation through time: a step per chunk, the state detached."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
rnn, head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 4)
optimizer = torch.optim.SGD([*rnn.parameters(), *head.parameters()], lr=0.5)
text = torch.randn(3, 25, 4)
state = None

for begin in range(0, 24, 6):
    x, y = text[:, begin : begin + 6], text[:, begin + 1 : begin + 7]
    if state is not None:
        state = tuple(part.detach() for part in state)
    out, state = rnn(x, state)
    loss = F.mse_loss(head(out), y)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([*rnn.parameters(), *head.parameters()], 0.25)
    optimizer.step()
