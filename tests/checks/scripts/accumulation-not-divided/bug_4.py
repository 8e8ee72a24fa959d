# finds: warning accumulation-not-divided x 4
# notes: adam-hides-factor
"""Adam does not hide it where the norm is clipped first."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.randn(64, 5), torch.randint(3, (64,))), batch_size=8)
model = nn.Linear(5, 3)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()

for number, (x, y) in enumerate(loader, start=1):
    loss = criterion(model(x), y)
    loss.backward()  # <- here
    if number % 4 == 0:
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
