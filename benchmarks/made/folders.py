"""Pictures of two classes in a folder each, made at random: `python folders.py FOLDER [COUNT]`."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    chance = np.random.default_rng(0)
    for split, count in (("train", int([*sys.argv, 10][2])), ("validation", 2)):
        for kind in ("dark", "light"):
            folder = Path(sys.argv[1], "images", split, kind)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = chance.integers(128, size=(40, 40, 3)) + 127 * (kind == "light")
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")


main()
