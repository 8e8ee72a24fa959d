"""MNIST's files with a few images made at random: `python mnist.py FOLDER [PLACE]`."""

import random
import struct
import sys
from pathlib import Path

COUNTS = {"train": 320, "t10k": 64}


def main() -> None:
    folder = Path(*sys.argv[1:3] if sys.argv[2:] else (sys.argv[1], "data"), "MNIST", "raw")
    folder.mkdir(parents=True)
    chance = random.Random(0)
    for name, count in COUNTS.items():
        images = struct.pack(">4i", 2051, count, 28, 28) + chance.randbytes(count * 28 * 28)
        labels = struct.pack(">2i", 2049, count) + bytes(chance.choices(range(10), k=count))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)


main()
