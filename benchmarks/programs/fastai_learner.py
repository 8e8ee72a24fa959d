"""fastai: a Learner with one-cycle schedule, accumulation, clip and frozen layers."""

import torch
from fastai.basics import DataLoaders, Learner, set_seed
from fastai.callback import schedule  # noqa: F401 - adds fit_one_cycle
from fastai.callback.training import GradientAccumulation, GradientClip
from torch import nn
from torch.utils.data import TensorDataset

set_seed(0)
inputs, targets = torch.randn(40, 6), torch.randint(3, (40,))
whole = TensorDataset(inputs, targets)
data = DataLoaders.from_dsets(whole, TensorDataset(inputs[:8], targets[:8]), bs=8, num_workers=0)
body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU())
net = nn.Sequential(body, nn.Linear(16, 3))
learner = Learner(
    data,
    net,
    loss_func=nn.CrossEntropyLoss(),
    splitter=lambda whole: [list(part.parameters()) for part in whole],
    cbs=[GradientAccumulation(16), GradientClip(0.5)],
)
with learner.no_bar(), learner.no_logging():
    learner.freeze()
    learner.fit(1, 1e-2)
    learner.unfreeze()
    learner.fit_one_cycle(2, slice(1e-3, 1e-2))
print(f"{learner.recorder.losses[-1].item():.6f}")
