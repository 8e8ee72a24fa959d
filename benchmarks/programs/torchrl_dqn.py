"""torchrl: a Q-network on tensordicts, its loss module with a target network made by functorch."""

import torch
from tensordict import TensorDict
from torch import nn
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss, SoftUpdate

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
actor = QValueActor(net, in_keys=["observation"], action_space="categorical")
loss = DQNLoss(actor, action_space="categorical", delay_value=True)
update = SoftUpdate(loss, eps=0.9)
optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)


def batch():
    return TensorDict(
        {
            "observation": torch.randn(10, 4),
            "action": torch.randint(3, (10,)),
            "next": {
                "observation": torch.randn(10, 4),
                "reward": torch.randn(10, 1),
                "done": torch.zeros(10, 1, dtype=torch.bool),
                "terminated": torch.zeros(10, 1, dtype=torch.bool),
            },
        },
        [10],
    )


for _ in range(4):
    optimizer.zero_grad()
    value = loss(batch())["loss"]
    value.backward()
    optimizer.step()
    update.step()
    print(value.item())
