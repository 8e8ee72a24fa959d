"""Pictures with boxes to find, as YOLO reads them, made at random: `python boxes.py FOLDER`."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"train": 8, "val": 2}


def main() -> None:
    place, settings = Path(sys.argv[1], "boxes"), Path(sys.argv[1], "config")
    settings.mkdir()
    (settings / "Arial.ttf").touch()  # YOLOv5 would fetch it, though it is told to draw nothing
    chance = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for part in ("images", "labels"):
            (place / part / split).mkdir(parents=True)
        for number in range(count):
            pixels = chance.integers(256, size=(96, 128, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "images" / split / f"{number}.png")
            boxes = [(n % 2, *chance.uniform(0.3, 0.6, 4)) for n in range(1 + number % 3)]
            lines = [" ".join(map(str, box)) for box in boxes]
            (place / "labels" / split / f"{number}.txt").write_text("\n".join(lines) + "\n")
    text = f"path: {place}\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
    (place / "boxes.yaml").write_text(text)


main()
