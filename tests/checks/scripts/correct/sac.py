"""An actor whose loss flows through the critic; the critic is emptied before its own backward."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
actor, critic = nn.Linear(4, 2), nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
target = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1)).requires_grad_(False)
target.load_state_dict(critic.state_dict())
actor_optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
critic_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)

for step in range(4):
    state, action, reward = torch.randn(8, 4), torch.rand(8, 2), torch.randn(8, 1)
    following = torch.randn(8, 4)
    with torch.no_grad():
        goal = reward + 0.99 * target(torch.cat([following, actor(following).tanh()], 1))
    critic_optimizer.zero_grad()
    F.mse_loss(critic(torch.cat([state, action], 1)), goal).backward()
    critic_optimizer.step()

    actor_optimizer.zero_grad()
    (-critic(torch.cat([state, actor(state).tanh()], 1)).mean()).backward()
    actor_optimizer.step()
    for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
        slow.data.mul_(0.995).add_(fast.data, alpha=0.005)
