"""What does a second backward call do to a gradient that is already there?

The loss is ``mean(w * x)`` for an `x` of ones, so one backward call gives `w` a gradient of 1. The
same loss is built and sent backward three times, and nobody clears ``w.grad`` in between. One sees
1, 2, 3: backward calls are summed, never averaged, although each loss on its own is a mean.
"""

import torch

x = torch.ones(4, 1)
w = torch.ones(1, requires_grad=True)

for call in (1, 2, 3):
    loss = (w * x).mean()
    loss.backward()
    print(f"after backward call {call}: w.grad = {w.grad.item():g}")
