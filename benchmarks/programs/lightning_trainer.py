"""Lightning: two optimizers by hand as for a GAN, then accumulation and clipping by it."""

import logging
import warnings

import lightning
import torch
from torch import nn

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Gan(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.maker, self.critic = nn.Linear(3, 4), nn.Linear(4, 1)

    def training_step(self, batch, number):
        make, judge = self.optimizers()
        (x,) = batch
        fake = self.maker(torch.randn(len(x), 3))
        self.toggle_optimizer(judge)
        loss = self.critic(fake.detach()).mean() - self.critic(x).mean()
        judge.zero_grad()
        self.manual_backward(loss)
        judge.step()
        self.untoggle_optimizer(judge)
        self.toggle_optimizer(make)
        loss = -self.critic(fake).mean()
        make.zero_grad()
        self.manual_backward(loss)
        make.step()
        self.untoggle_optimizer(make)
        print(loss.item())

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), 1e-2) for part in (self.maker, self.critic)]


class Plain(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def training_step(self, batch, number):
        (x,) = batch
        loss = (self.net(x) - x.sum(1, keepdim=True)).square().mean()
        print(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-2, momentum=0.9)


def fit(module, **options):
    lightning.seed_everything(0, verbose=False)
    data = torch.utils.data.TensorDataset(torch.randn(20, 4))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, loader)


fit(Gan())
fit(Plain(), accumulate_grad_batches=2, gradient_clip_val=0.3)
