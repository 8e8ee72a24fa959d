"""pytorch-metric-learning: losses over mined pairs, a loss with weights of its own."""

import torch
from pytorch_metric_learning import losses, miners

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
miner = miners.MultiSimilarityMiner()
contrastive = losses.NTXentLoss()
proxies = losses.ProxyAnchorLoss(num_classes=5, embedding_size=4)
optimizer = torch.optim.SGD([*net.parameters(), *proxies.parameters()], lr=0.1)
for _ in range(5):
    x, labels = torch.randn(20, 6), torch.randint(5, (20,))
    optimizer.zero_grad()
    embedded = net(x)
    pairs = miner(embedded, labels)
    loss = contrastive(embedded, labels, pairs) + 0.1 * proxies(embedded, labels)
    loss.backward()
    optimizer.step()
    print(loss.item())
