"""A class that trains: gradient norms for a log, a step skipped on a bad norm."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Trainer:
    def __init__(self, model, loader):
        self.model, self.loader, self.log = model, loader, []
        self.optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)

    def training_step(self, batch):
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def optimize(self, batch):
        self.optimizer.zero_grad()
        loss = self.training_step(batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), float("inf"))
        self.log.append((loss.item(), float(norm)))
        if float(norm) < 100:
            self.optimizer.step()

    def fit(self, epochs):
        for _ in range(epochs):
            for batch in self.loader:
                self.optimize(batch)


torch.manual_seed(0)
data = TensorDataset(torch.randn(20, 6), torch.randint(3, (20,)))
Trainer(nn.Linear(6, 3), DataLoader(data, batch_size=8)).fit(2)
