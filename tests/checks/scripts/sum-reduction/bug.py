# finds: note sum-reduction x 32
"""A regression whose loss is summed over the batch."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
data = TensorDataset(torch.randn(128, 8), torch.randn(128, 1))
loader = DataLoader(data, batch_size=32, shuffle=True)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
criterion = nn.MSELoss(reduction="sum")

for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)  # <- here
    loss.backward()
    optimizer.step()
