"""A critic on a trunk that the actor shares: both losses are meant for it."""

import torch
from torch import nn

torch.manual_seed(0)
trunk, actor, critic = nn.Linear(4, 16), nn.Linear(16, 2), nn.Linear(16, 1)
actor_optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
critic_optimizer = torch.optim.Adam([*trunk.parameters(), *critic.parameters()], lr=1e-3)

for step in range(4):
    states, returns = torch.randn(16, 4), torch.randn(16, 1)
    features = torch.tanh(trunk(states))
    policy = torch.distributions.Categorical(logits=actor(features))
    values = critic(features)
    advantage = (returns - values).detach().squeeze(1)
    actor_loss = -(policy.log_prob(policy.sample()) * advantage).mean()
    critic_loss = nn.functional.mse_loss(values, returns)
    actor_optimizer.zero_grad()
    critic_optimizer.zero_grad()
    actor_loss.backward(retain_graph=True)
    critic_loss.backward()
    actor_optimizer.step()
    critic_optimizer.step()
