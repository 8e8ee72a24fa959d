# finds: warning mean-of-means
"""The batches of a window are drawn in advance, as the Trainer of transformers does."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(0)
texts = [torch.randint(1, 30, (n,)) for n in (5, 12, 3, 9, 14, 4, 8, 2, 11, 6, 13, 7)]
loader = DataLoader(texts, batch_size=1)
model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 30))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
batches = iter(loader)

for update in range(3):
    window = [next(batches) for _ in range(4)]
    for tokens in window:
        logits = model(tokens[:, :-1]).flatten(0, 1)
        loss = F.cross_entropy(logits, tokens[:, 1:].flatten())  # <- here
        (loss / len(window)).backward()
    optimizer.step()
    optimizer.zero_grad()
