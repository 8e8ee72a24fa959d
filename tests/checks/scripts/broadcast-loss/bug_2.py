# finds: warning broadcast-loss
"""A policy gradient: log-probabilities have one dimension, the advantages of a critic two."""

import torch
from torch import nn
from torch.distributions import Categorical

torch.manual_seed(0)
actor, critic = nn.Linear(4, 2), nn.Linear(4, 1)
optimizer = torch.optim.SGD(actor.parameters(), lr=0.01)

for update in range(3):
    states, returns = torch.randn(12, 4), torch.randn(12, 1)
    policy = Categorical(logits=actor(states))
    actions = policy.sample()
    advantages = returns - critic(states).detach()
    loss = -(policy.log_prob(actions) * advantages).mean()  # <- here
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
