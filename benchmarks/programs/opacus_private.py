"""opacus: gradients per sample in hooks of its own, clipped one by one, noise added."""

import warnings

import torch
from opacus import PrivacyEngine
from torch import nn

warnings.simplefilter("ignore")
torch.manual_seed(0)
for mode in ("hooks", "functorch"):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    data = torch.utils.data.TensorDataset(torch.randn(30, 6), torch.randint(3, (30,)))
    loader = torch.utils.data.DataLoader(data, batch_size=10)
    net, optimizer, loader = PrivacyEngine().make_private(
        module=net, optimizer=optimizer, data_loader=loader, noise_multiplier=1.0,
        max_grad_norm=1.0, poisson_sampling=False, grad_sample_mode=mode,
    )  # fmt: skip
    for _ in range(2):
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            print(mode, loss.item())
