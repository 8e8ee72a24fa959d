"""Stands in a process that trains, traced or not, and says at the end what its parameters were.

Python imports this at start, as its folder is in PYTHONPATH. It waits for torch's optimizers, seeds
torch, numpy and Python for programs that do not do so themselves, and takes a digest of all
parameters after each step. At the end it writes the number of steps, the digest of them all, and
that of the parameters that are still alive, to the file that WITNESS names. It knows nothing of the
tracer.

It also lets torchvision's wheel be imported beside the CPU build of torch, for which there is none
that loads its own operators: it brings the one that detection needs. And it lets torchvision read
files made at random instead of those it knows.
"""

import atexit
import gc
import hashlib
import importlib.abc
import importlib.machinery
import json
import os
import random
import sys


class Witness(importlib.abc.MetaPathFinder):
    """Waits for the module that optimizers come from, and two of torchvision's."""

    def __init__(self, file):
        self.file = file
        self.places = {
            "torch.optim.optimizer": self.follow,
            "numpy.random": lambda module: module.seed(0),
            "torchvision.extension": declare_operators,
            "torchvision.datasets.utils": trust_files,
        }
        self.steps = 0
        self.digest = hashlib.blake2b(digest_size=16)

    def find_spec(self, name, path=None, target=None):
        then = self.places.pop(name, None)
        if then is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            then(module)

        spec.loader.exec_module = exec_module
        return spec

    def follow(self, module):
        module.register_optimizer_step_post_hook(self.after_step)
        sys.modules["torch"].manual_seed(0)

    def after_step(self, optimizer, args, kwargs):
        self.steps += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self.digest.update(content_of(parameter))

    def tell(self):
        torch = sys.modules.get("torch")
        alive = []
        gc.collect()  # else garbage in circles is counted, and the tracer makes it go earlier
        if torch is not None and hasattr(torch, "nn"):
            kind = torch.nn.Parameter
            alive = sorted(content_of(p) for p in gc.get_objects() if type(p) is kind)
        end = hashlib.blake2b(b"".join(alive), digest_size=16)
        found = {
            "steps": self.steps,
            "digest": self.digest.hexdigest(),
            "alive": len(alive),
            "end": end.hexdigest(),
        }
        with open(self.file, "w", encoding="utf-8") as file:
            json.dump(found, file)


def declare_operators(module):
    if module._has_ops():
        return
    library = sys.modules["torch"].library
    boxes = "(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor"
    for name in ("nms", "qnms"):
        library.define(f"torchvision::{name}", boxes)
    library.impl("torchvision::nms", "CPU", suppress)
    module._assert_has_ops = lambda: None


def suppress(boxes, scores, threshold):
    """The boxes that no better one covers, the best first."""
    torch = sys.modules["torch"]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    left, kept = scores.argsort(descending=True, stable=True), []
    while left.numel():
        best, left = left[0], left[1:]
        kept.append(best)
        corner = torch.maximum(boxes[left, :2], boxes[best, :2])
        sides = torch.minimum(boxes[left, 2:], boxes[best, 2:]) - corner
        both = sides.clamp(min=0).prod(1)
        left = left[both <= threshold * (areas[left] + areas[best] - both)]
    return torch.stack(kept) if kept else scores.new_empty(0, dtype=torch.int64)


def trust_files(module):
    module.check_integrity = lambda path, md5=None: os.path.isfile(path)


def content_of(tensor):
    torch = sys.modules["torch"]
    if tensor.is_meta:
        return b"meta"
    plain = tensor.detach().to("cpu").contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(bytes(plain.tolist()), digest_size=16).digest()


if os.environ.get("WITNESS"):
    witness = Witness(os.environ.pop("WITNESS"))
    random.seed(0)
    sys.meta_path.insert(0, witness)
    atexit.register(witness.tell)
