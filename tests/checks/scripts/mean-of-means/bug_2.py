# finds: warning mean-of-means
"""A Trainer whose micro-batches average over their own tokens."""

import torch, torch.nn as nn, torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


class Texts(Dataset):
    def __init__(s):
        g = torch.Generator().manual_seed(1)
        s.t = [
            torch.randint(0, 30, (int(n),), generator=g)
            for n in torch.randint(3, 16, (24,), generator=g)
        ]

    def __len__(s):
        return len(s.t)

    def __getitem__(s, i):
        return s.t[i]


def collate(b):
    x = nn.utils.rnn.pad_sequence(b, batch_first=True, padding_value=0)
    y = nn.utils.rnn.pad_sequence(b, batch_first=True, padding_value=-100)
    return dict(input_ids=x, labels=y)


class LM(nn.Module):
    def __init__(s):
        super().__init__()
        s.emb = nn.Embedding(30, 8)
        s.out = nn.Linear(8, 30)

    def forward(s, input_ids, labels):
        l = s.out(s.emb(input_ids))
        return dict(
            loss=F.cross_entropy(l[:, :-1].reshape(-1, 30), labels[:, 1:].reshape(-1)),  # <- here
            logits=l,
        )


class Trainer:
    def __init__(s, model, ds, accum=4):
        s.model, s.accum = model, accum
        s.dl = DataLoader(ds, batch_size=2, collate_fn=collate)
        s.opt = torch.optim.SGD(model.parameters(), lr=0.1)

    def compute_loss(s, batch):
        return s.model(**batch)["loss"]

    def training_step(s, batch):
        loss = s.compute_loss(batch)
        loss = loss / s.accum
        loss.backward()
        return loss.detach()

    def train(s):
        for i, b in enumerate(s.dl):
            s.training_step(b)
            if (i + 1) % s.accum == 0:
                s.opt.step()
                s.model.zero_grad()


torch.manual_seed(0)
Trainer(LM(), Texts()).train()
