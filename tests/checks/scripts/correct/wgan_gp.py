"""Wasserstein GAN: several critic steps per generator step, a penalty by double backward."""

import torch
from torch import nn

torch.manual_seed(0)
generator = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))
critic = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer_g = torch.optim.Adam(generator.parameters(), lr=1e-3)
optimizer_c = torch.optim.Adam(critic.parameters(), lr=1e-3)


def gradient_penalty(real, fake):
    mix = torch.rand(real.size(0), 1)
    between = (mix * real + (1 - mix) * fake).requires_grad_(True)
    score = critic(between)
    (gradient,) = torch.autograd.grad(
        score, between, grad_outputs=torch.ones_like(score), create_graph=True, retain_graph=True
    )
    return ((gradient.norm(2, dim=1) - 1) ** 2).mean()


for step in range(6):
    real, fake = torch.randn(8, 2), generator(torch.randn(8, 3)).detach()
    optimizer_c.zero_grad()
    loss_c = critic(fake).mean() - critic(real).mean() + 10 * gradient_penalty(real, fake)
    loss_c.backward()
    optimizer_c.step()
    if step % 3 == 2:
        optimizer_g.zero_grad()
        loss_g = -critic(generator(torch.randn(8, 3))).mean()
        loss_g.backward()
        optimizer_g.step()
