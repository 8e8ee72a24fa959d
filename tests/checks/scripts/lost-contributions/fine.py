"""A GAN: the generator's loss fills the discriminator, which is emptied before its own turn."""

import torch
from torch import nn

torch.manual_seed(0)
generator = nn.Linear(4, 6)
discriminator = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4)
optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4)
criterion = nn.BCEWithLogitsLoss()

for step in range(3):
    real, noise = torch.randn(8, 6), torch.randn(8, 4)
    discriminator.zero_grad()
    criterion(discriminator(real), torch.ones(8, 1)).backward()
    fake = generator(noise)
    criterion(discriminator(fake.detach()), torch.zeros(8, 1)).backward()
    optimizer_d.step()

    generator.zero_grad()
    criterion(discriminator(fake), torch.ones(8, 1)).backward()
    optimizer_g.step()
