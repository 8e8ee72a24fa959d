"""CIFAR-10's files with one image each, made at random: `python cifar.py FOLDER [PLACE ...]`."""

import pickle
import sys
from pathlib import Path

import numpy as np

FILES = (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch")


def main() -> None:
    for place in sys.argv[2:] or ["program/data"]:
        make(Path(sys.argv[1], place, "cifar-10-batches-py"))


def make(folder: Path) -> None:
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for number, name in enumerate(FILES):
        image = chance.integers(256, size=(1, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": image, "labels": [number]}))
    names = [f"kind {n}" for n in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))


main()
