"""PyTorch Geometric: two graph layers, messages summed by scatter, a masked loss."""

import torch
from torch_geometric.data import Data
from torch_geometric.nn import GATConv, GCNConv

torch.manual_seed(0)
edges = torch.randint(20, (2, 60))
graph = Data(x=torch.randn(20, 5), edge_index=edges, y=torch.randint(3, (20,)))
train = torch.arange(20) % 3 != 0


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = GCNConv(5, 8), GATConv(8, 3, heads=2, concat=False)

    def forward(self, data):
        x = self.first(data.x, data.edge_index).relu()
        x = torch.nn.functional.dropout(x, 0.3, self.training)
        return self.second(x, data.edge_index)


net = Net()
optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=5e-4)
for _ in range(6):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(graph)[train], graph.y[train])
    loss.backward()
    optimizer.step()
    print(loss.item())
