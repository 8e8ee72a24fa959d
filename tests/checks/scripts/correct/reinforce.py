# notes: sum-reduction, adam-hides-factor
"""REINFORCE as in the examples, an episode a step, with returns that are normalised."""

import torch
from torch import nn
from torch.distributions import Categorical

torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2), nn.Softmax(dim=-1))
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)

for episode in range(4):
    saved, rewards = [], []
    state = torch.randn(1, 4)
    for _ in range(5 + episode):
        distribution = Categorical(policy(state))
        action = distribution.sample()
        saved.append(distribution.log_prob(action))
        rewards.append(float(torch.rand(())))
        state = torch.randn(1, 4)
    returns, running = [], 0.0
    for reward in reversed(rewards):
        running = reward + 0.99 * running
        returns.insert(0, running)
    returns = torch.tensor(returns)
    returns = (returns - returns.mean()) / (returns.std() + 1e-8)
    losses = [-log_prob * value for log_prob, value in zip(saved, returns, strict=True)]
    optimizer.zero_grad()
    loss = torch.cat(losses).sum()
    loss.backward()
    optimizer.step()
