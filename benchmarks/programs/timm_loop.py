"""timm: a small network of each of four families, its optimizers, scheduler, mixup and EMA."""

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, NativeScaler, dispatch_clip_grad

MODELS = (
    ("test_resnet", "sgd", {}),
    ("test_vit", "adamw", {}),
    ("test_efficientnet", "lamb", {"drop_rate": 0.1}),
    ("test_convnext", "muon", {}),
)

for name, kind, options in MODELS:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **options)
    optimizer = create_optimizer_v2(model, opt=kind, lr=1e-3, weight_decay=0.05)
    scheduler = CosineLRScheduler(optimizer, t_initial=4)
    scaler, average = NativeScaler(), ModelEmaV3(model, decay=0.9)
    mixup = Mixup(mixup_alpha=0.2, num_classes=5, label_smoothing=0.1)
    mixup.mixup_enabled = False  # its choice is drawn by numpy; smoothing stays
    size = model.default_cfg["input_size"][1]
    for update in range(2):
        for _micro in range(2):
            images, labels = mixup(torch.randn(4, 3, size, size), torch.arange(4))
            loss = SoftTargetCrossEntropy()(model(images), labels) / 2
            loss.backward()
        dispatch_clip_grad(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
        scheduler.step(update + 1)
    print(name, kind, f"{loss.item():.6f}")
