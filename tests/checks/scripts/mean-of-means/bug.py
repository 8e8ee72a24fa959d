# finds: warning mean-of-means
"""A language model: each micro-batch averages over its own tokens, padding left out."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(0)
ACCUMULATE = 2
texts = [torch.randint(30, (n,)) for n in (5, 12, 3, 9, 14, 4, 8, 2, 11, 6, 13, 7)]


def collate(batch):
    return nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-100)


loader = DataLoader(texts, batch_size=2, collate_fn=collate)
model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 30))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

for number, tokens in enumerate(loader, start=1):
    inputs, targets = tokens[:, :-1].clamp(min=0), tokens[:, 1:]
    logits = model(inputs)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)  # <- here
    (loss / ACCUMULATE).backward()
    if number % ACCUMULATE == 0:
        optimizer.step()
        optimizer.zero_grad()
