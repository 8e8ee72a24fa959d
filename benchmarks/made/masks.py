"""Images and masks as Pytorch-UNet reads them, made at random: `python masks.py FOLDER`."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    chance = np.random.default_rng(0)
    folder = Path(sys.argv[1], "program", "data")
    for kind in ("imgs", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(5):
        pixels = chance.integers(256, size=(64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "imgs" / f"{number}.png")
        mask = (chance.random((64, 64)) < 0.5).astype(np.uint8)
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")


main()
