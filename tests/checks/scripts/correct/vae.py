# notes: sum-reduction, adam-hides-factor
"""The VAE of the examples: sums over batch and pixels."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
fc1, mean, log_variance, fc3 = nn.Linear(12, 8), nn.Linear(8, 3), nn.Linear(8, 3), nn.Linear(3, 12)
parameters = [p for m in (fc1, mean, log_variance, fc3) for p in m.parameters()]
optimizer = torch.optim.Adam(parameters, lr=1e-3)


def loss_function(reconstruction, x, mu, logvar):
    BCE = F.binary_cross_entropy(reconstruction, x, reduction="sum")
    KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return BCE + KLD


for step in range(3):
    x = torch.rand(8, 12)
    h = F.relu(fc1(x))
    mu, logvar = mean(h), log_variance(h)
    z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
    loss = loss_function(torch.sigmoid(fc3(z)), x, mu, logvar)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
