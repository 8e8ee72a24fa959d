# finds: warning accumulation-not-divided x 4
# notes: decay-ratio
"""A trainer in the manner of Lightning, which forgets to divide."""

import torch, torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class LitModel(nn.Module):
    def __init__(s):
        super().__init__()
        s.net = nn.Linear(4, 2)

    def training_step(s, batch, idx):
        x, y = batch
        return {"loss": nn.functional.cross_entropy(s.net(x), y)}


class Trainer:
    def __init__(s, accumulate_grad_batches=1):
        s.accumulate_grad_batches = accumulate_grad_batches

    def fit(s, model, loader, opt):
        for idx, batch in enumerate(loader):
            out = model.training_step(batch, idx)
            s.backward(out["loss"])
            if s.should_step(idx):
                opt.step()
                opt.zero_grad()

    def should_step(s, idx):
        return (idx + 1) % s.accumulate_grad_batches == 0

    def backward(s, loss):
        loss.backward()  # <- here


m = LitModel()
Trainer(4).fit(
    m,
    DataLoader(TensorDataset(torch.randn(48, 4), torch.randint(2, (48,))), batch_size=6),
    torch.optim.SGD(m.parameters(), lr=0.1, weight_decay=0.01),
)
