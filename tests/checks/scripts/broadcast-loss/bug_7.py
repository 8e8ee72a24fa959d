# finds: warning broadcast-loss
"""The model takes its loss itself, as those of transformers do."""

import torch
from torch import nn


class Reg(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.head = nn.Linear(8, 1)

    def forward(self, x, labels=None):
        out = self.head(self.body(x))
        loss = None
        if labels is not None:
            loss = torch.mean((out - labels) ** 2)  # <- here
        return loss, out


torch.manual_seed(0)
model = Reg()
opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
for ep in range(2):
    for x, y in torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(24, 4), torch.randn(24)), batch_size=8
    ):
        loss, _ = model(x, labels=y)
        opt.zero_grad()
        loss.backward()
        opt.step()
