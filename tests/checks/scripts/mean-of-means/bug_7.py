# finds: warning mean-of-means x 5
"""Padding is ignored: of two windows one happens to have as many tokens in both of its calls."""

import torch
from torch import nn

PAD = 0


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(15, 10, padding_idx=PAD)
        self.cell = nn.GRU(10, 10, batch_first=True)
        self.leave = nn.Linear(10, 15)

    def forward(self, ids):
        return self.leave(self.cell(self.embed(ids))[0])


def batch(*lengths):
    rows = [torch.randint(1, 15, (length,)) for length in lengths]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


torch.manual_seed(5)
model = Language()
criterion = nn.CrossEntropyLoss(ignore_index=PAD)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
accumulation = 2
for number, ids in enumerate([batch(9, 8), batch(3, 2), batch(7, 7), batch(10, 4)], start=1):
    logits = model(ids[:, :-1])
    loss = criterion(logits.transpose(1, 2), ids[:, 1:]) / accumulation  # <- here
    loss.backward()
    if number % accumulation == 0:
        optimizer.step()
        optimizer.zero_grad()
