# finds: warning foreign-root
"""A GAN that does not empty the discriminator after the generator's turn."""

import torch
from torch import nn

torch.manual_seed(0)
generator = nn.Linear(4, 6)
discriminator = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4)
optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4)
criterion = nn.BCEWithLogitsLoss()

for step in range(4):
    real, fake = torch.randn(8, 6), generator(torch.randn(8, 4))
    loss_d = criterion(discriminator(real), torch.ones(8, 1))
    loss_d = loss_d + criterion(discriminator(fake.detach()), torch.zeros(8, 1))
    loss_d.backward()  # <- here
    optimizer_d.step()
    optimizer_d.zero_grad()

    loss_g = criterion(discriminator(fake), torch.ones(8, 1))
    loss_g.backward()
    optimizer_g.step()
    optimizer_g.zero_grad()
