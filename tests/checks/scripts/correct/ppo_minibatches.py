"""PPO: several epochs of minibatches, with entropy, value loss and a clip by norm."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)


class AC(nn.Module):
    def __init__(s):
        super().__init__()
        s.b = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
        s.pi = nn.Linear(16, 2)
        s.v = nn.Linear(16, 1)

    def forward(s, x):
        h = s.b(x)
        return torch.distributions.Categorical(logits=s.pi(h)), s.v(h).squeeze(-1)


ac = AC()
opt = torch.optim.Adam(ac.parameters(), lr=2.5e-4, eps=1e-5)
N, EPOCHS, MB = 32, 3, 8
for update in range(2):
    obs = torch.randn(N, 4)
    with torch.no_grad():
        d, v = ac(obs)
        act = d.sample()
        old = d.log_prob(act)
        adv = torch.randn(N)
        ret = adv + v
    inds = torch.arange(N)
    for epoch in range(EPOCHS):
        perm = inds[torch.randperm(N)]
        for st in range(0, N, MB):
            mb = perm[st : st + MB]
            d, v = ac(obs[mb])
            ratio = (d.log_prob(act[mb]) - old[mb]).exp()
            a = adv[mb]
            a = (a - a.mean()) / (a.std() + 1e-8)
            pg = torch.max(-a * ratio, -a * ratio.clamp(0.8, 1.2)).mean()
            vl = 0.5 * ((v - ret[mb]) ** 2).mean()
            loss = pg - 0.01 * d.entropy().mean() + 0.5 * vl
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(ac.parameters(), 0.5)
            opt.step()
