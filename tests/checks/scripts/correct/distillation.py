"""A student learns from labels and from a teacher, with a temperature."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
teacher = nn.Linear(6, 4).requires_grad_(False)
student = nn.Linear(6, 4)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
T = 4.0

for step in range(3):
    x, y = torch.randn(16, 6), torch.randint(4, (16,))
    logits = student(x)
    soft = F.kl_div(
        F.log_softmax(logits / T, dim=1), F.softmax(teacher(x) / T, dim=1), reduction="batchmean"
    )
    loss = 0.5 * F.cross_entropy(logits, y) + 0.5 * T * T * soft
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
