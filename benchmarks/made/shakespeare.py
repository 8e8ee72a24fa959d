"""Letters for nanoGPT, made at random: `python shakespeare.py FOLDER`."""

import pickle
import sys
from pathlib import Path

import numpy as np

LETTERS = 65


def main() -> None:
    folder = Path(sys.argv[1], "program", "data", "shakespeare_char")
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for name, count in (("train", 9000), ("val", 1000)):
        chance.integers(LETTERS, size=count, dtype=np.uint16).tofile(folder / f"{name}.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": LETTERS}))


main()
