"""The weight of a loss grows from step to step; another has a half-life."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
encoder, decoder = nn.Linear(8, 4), nn.Linear(4, 8)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)

for step in range(8):
    x = torch.randn(16, 8)
    code = encoder(x)
    noisy = code + 0.1 * torch.randn_like(code)
    reconstruction = F.mse_loss(decoder(noisy), x)
    sparsity = code.abs().mean()
    beta = min(1.0, step / 5)
    loss = reconstruction + beta * sparsity + 0.5**step * code.pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
