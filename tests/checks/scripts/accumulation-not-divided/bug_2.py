# finds: note accumulation-not-divided x 3
# notes: adam-hides-factor
"""The same under Adam, which hides the factor."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.randn(48, 5), torch.randn(48, 1)), batch_size=8)
model = nn.Linear(5, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

for number, (x, y) in enumerate(loader):
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()  # <- here
    if number % 3 == 2:
        optimizer.step()
        optimizer.zero_grad()
