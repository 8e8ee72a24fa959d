"""The files of the Cora citations, made at random: `python cora.py FOLDER`."""

import sys
from pathlib import Path

import numpy as np

PAPERS, WORDS, CITATIONS, KINDS = 1600, 30, 4000, 7
"""The program tests on papers 500 to 1500."""


def main() -> None:
    folder = Path(sys.argv[1], "data", "cora")
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    words = chance.integers(2, size=(PAPERS, WORDS))
    kinds = chance.integers(KINDS, size=PAPERS)
    lines = [
        "\t".join([str(n), *map(str, row), f"kind{kind}"])
        for n, (row, kind) in enumerate(zip(words, kinds, strict=True))
    ]
    (folder / "cora.content").write_text("\n".join(lines) + "\n")
    pairs = chance.integers(PAPERS, size=(CITATIONS, 2))
    (folder / "cora.cites").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))


main()
