# finds: warning lost-contributions
"""Seven batches, three to a step, a fresh start at each epoch: one batch is never learnt from."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
K = 3
loader = DataLoader(TensorDataset(torch.randn(56, 5), torch.randint(3, (56,))), batch_size=8)
model = nn.Linear(5, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()

for epoch in range(3):
    optimizer.zero_grad()  # <- here
    for number, (x, y) in enumerate(loader, start=1):
        (criterion(model(x), y) / K).backward()
        if number % K == 0:
            optimizer.step()
            optimizer.zero_grad()
