"""ignite: its supervised trainer with accumulation, an evaluator and a running average."""

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import MeanSquaredError, RunningAverage
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-2)
data = torch.utils.data.TensorDataset(torch.randn(32, 5), torch.randn(32, 1))
loader = torch.utils.data.DataLoader(data, batch_size=8)
trainer = create_supervised_trainer(model, optimizer, nn.MSELoss(), gradient_accumulation_steps=2)
RunningAverage(output_transform=lambda loss: loss).attach(trainer, "loss")
evaluator = create_supervised_evaluator(model, {"mse": MeanSquaredError()})


@trainer.on(Events.EPOCH_COMPLETED)
def evaluate(engine):
    evaluator.run(loader)
    print(engine.state.metrics["loss"], evaluator.state.metrics["mse"])


trainer.run(loader, max_epochs=3)
