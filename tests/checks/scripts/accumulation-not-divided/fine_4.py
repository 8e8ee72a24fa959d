"""CTC over three micro-batches, divided by three."""

import torch
from torch import nn

torch.manual_seed(0)
rnn, head = nn.GRU(8, 16), nn.Linear(16, 11)
parameters = [*rnn.parameters(), *head.parameters()]
optimizer = torch.optim.SGD(parameters, lr=0.01)
ctc = nn.CTCLoss(zero_infinity=True)

for step in range(2):
    optimizer.zero_grad()
    for micro in range(3):
        frames = torch.randn(30, 4, 8)
        log_probs = head(rnn(frames)[0]).log_softmax(-1)
        lengths = torch.tensor([3, 4, 5, 7])
        targets = torch.randint(1, 11, (4, 8))
        loss = ctc(log_probs, targets, torch.full((4,), 30), lengths) / 3
        loss.backward()
    optimizer.step()
