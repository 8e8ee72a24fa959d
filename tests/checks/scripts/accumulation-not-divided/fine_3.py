# notes: accumulation-not-divided, sum-reduction
"""The policy gradient of ten episodes is added up before a step, as the first example of many does."""

import torch
from torch import nn

torch.manual_seed(0)
policy = nn.Linear(4, 2)
optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)

for episode in range(20):
    states, rewards = torch.randn(8, 4), torch.randn(8)
    distribution = torch.distributions.Categorical(logits=policy(states))
    loss = -(distribution.log_prob(distribution.sample()) * rewards).mean()
    loss.backward()
    if (episode + 1) % 10 == 0:
        optimizer.step()
        optimizer.zero_grad()
