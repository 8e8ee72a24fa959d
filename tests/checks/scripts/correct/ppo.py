"""PPO: several epochs of minibatch updates on one rollout; actor and critic share nothing."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical

torch.manual_seed(0)
actor, critic = nn.Linear(4, 3), nn.Linear(4, 1)
optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-4, eps=1e-5)

for rollout in range(2):
    states = torch.randn(24, 4)
    with torch.no_grad():
        old = Categorical(logits=actor(states))
        actions = old.sample()
        old_log_probs = old.log_prob(actions)
        values = critic(states).squeeze(-1)
    returns = values + torch.randn(24)
    for epoch in range(2):
        for index in torch.randperm(24).split(8):
            policy = Categorical(logits=actor(states[index]))
            ratio = (policy.log_prob(actions[index]) - old_log_probs[index]).exp()
            advantage = returns[index] - values[index]
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            value_loss = 0.5 * F.mse_loss(critic(states[index]).squeeze(-1), returns[index])
            loss = -surrogate.mean() + 0.5 * value_loss - 0.01 * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*actor.parameters(), *critic.parameters()], 0.5)
            optimizer.step()
