# finds: warning stepped-twice x 2
"""An embedding in two optimizers of a list."""

import torch

torch.manual_seed(0)
e = torch.nn.Embedding(6, 3)
h = torch.nn.Linear(3, 2)
o1 = torch.optim.SparseAdam([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
a = torch.optim.Adam(list(e.parameters()) + list(h.parameters()))
b = torch.optim.SGD(e.parameters(), lr=0.1)
opts = [a, b]
for i in range(3):
    [o.zero_grad() for o in opts]
    torch.nn.functional.cross_entropy(
        h(e(torch.randint(6, (7,)))), torch.randint(2, (7,))
    ).backward()
    [o.step() for o in opts]  # <- here
