"""Does a bigger batch make a bigger gradient?

Every row of `x` is 3, so every row asks the same of `w`; only their number changes: 1, 2, 4, 16.
One sees that a loss reduced by `mean` gives the same gradient, 3, at each batch size, and that one
reduced by `sum` gives 3, 6, 12, 48. Whoever sums has to put the batch size somewhere else: into the
learning rate, or into a division of the gradients.
"""

import torch

w = torch.ones(1, requires_grad=True)

print("batch    mean     sum")
for batch in (1, 2, 4, 16):
    x = torch.full((batch, 1), 3.0)

    w.grad = None
    (w * x).mean().backward()
    by_mean = w.grad.item()

    w.grad = None
    (w * x).sum().backward()
    by_sum = w.grad.item()

    print(f"{batch:5} {by_mean:7g} {by_sum:7g}")
