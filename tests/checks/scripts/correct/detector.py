"""A detector's loss: masked means over few positives, a ratio loss (IoU), a clamp on the count."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Conv2d(3, 6, 3, padding=1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

for step in range(4):
    images = torch.randn(2, 3, 5, 5)
    out = model(images).permute(0, 2, 3, 1).reshape(2, 25, 6)
    positive = torch.rand(2, 25) < 0.2
    count = positive.sum().clamp(min=1)
    boxes, truth = out[..., :4].sigmoid(), torch.rand(2, 25, 4)
    overlap = torch.min(boxes, truth).prod(-1) / torch.max(boxes, truth).prod(-1)
    iou = ((1 - overlap) * positive).sum() / count
    objectness = F.binary_cross_entropy_with_logits(out[..., 4], positive.float())
    size = (F.smooth_l1_loss(boxes, truth, reduction="none").sum(-1) * positive).sum() / count
    loss = iou + objectness + size
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
