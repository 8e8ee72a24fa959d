"""Contrastive losses over real pairs: CLIP's matrix, SimCLR's, triplets of all pairs."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
image, text = nn.Linear(6, 8), nn.Linear(5, 8)
scale = nn.Parameter(torch.tensor(2.0))
optimizer = torch.optim.AdamW([*image.parameters(), *text.parameters(), scale], lr=1e-3)

for step in range(3):
    a = F.normalize(image(torch.randn(8, 6)), dim=1)
    b = F.normalize(text(torch.randn(8, 5)), dim=1)
    logits = scale.exp() * a @ b.t()
    target = torch.arange(8)
    clip = (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2

    z = torch.cat([a, b])
    similarity = z @ z.T / 0.5
    similarity = similarity.masked_fill(torch.eye(16, dtype=torch.bool), float("-inf"))
    simclr = F.cross_entropy(similarity, torch.cat([torch.arange(8, 16), torch.arange(8)]))

    distances = (a[:, None] - b[None, :]).pow(2).sum(2)
    positive = distances.diagonal()[:, None]
    triplet = F.relu(positive - distances + 0.2).mean()

    loss = clip + simclr + triplet
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
