"""skorch: a classifier inside a grid search of scikit-learn; the loss is made in a closure."""

import numpy
import torch
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, x):
        return self.layers(x).softmax(-1)


torch.manual_seed(0)
random = numpy.random.RandomState(0)
x = random.randn(60, 6).astype("float32")
y = (x.sum(1) > 0).astype("int64")
net = NeuralNetClassifier(
    Net, max_epochs=3, lr=0.1, verbose=0, train_split=None,
    callbacks=[GradientNormClipping(0.5)],
)  # fmt: skip
search = GridSearchCV(net, {"module__hidden": [3, 5]}, cv=2, scoring="accuracy", refit=True)
search.fit(x, y)
print(search.best_params_, search.cv_results_["mean_test_score"])
