"""vit-pytorch: a student of its own average, a student of another net, and images of two sizes."""

import torch
from vit_pytorch import Dino, ViT
from vit_pytorch.distill import DistillableViT, DistillWrapper
from vit_pytorch.na_vit import NaViT

SHAPE = {"patch_size": 8, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 32}


def vit(kind=ViT):
    return kind(image_size=32, num_classes=10, **SHAPE)


average = Dino(
    vit(), image_size=32, hidden_layer="to_latent", projection_hidden_size=16,
    projection_layers=2, num_classes_K=20,
)  # fmt: skip
student = DistillWrapper(
    student=vit(DistillableViT), teacher=vit(), temperature=3, alpha=0.5, hard=False
)
sizes = NaViT(image_size=32, num_classes=10, **SHAPE)
labels = torch.tensor([1, 2, 3, 4])


def loss_of_sizes():
    images = [torch.randn(3, 32, 16), torch.randn(3, 16, 16)]
    guesses = sizes([images, [torch.randn(3, 32, 32), torch.randn(3, 8, 32)]])
    return torch.nn.functional.cross_entropy(guesses, labels)


LEARNERS = (
    (average, lambda: average(torch.randn(4, 3, 32, 32))),
    (student, lambda: student(torch.randn(4, 3, 32, 32), labels)),
    (sizes, loss_of_sizes),
)

for learner, loss_of in LEARNERS:
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-4)
    for _ in range(2):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if learner is average:
            learner.update_moving_average()
        print(type(learner).__name__, loss.item())
