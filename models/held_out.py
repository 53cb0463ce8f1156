"""Writes the files that models/tiny was not trained on, one text a domain: `python models/held_out.py FOLDER`.

For `moe-serve calibrate`: what a model has learnt by heart says nothing of what leaving experts out costs.
"""

import argparse
import sys
from pathlib import Path

from training.corpus import read_corpus
from training.errors import TrainingError

CHARACTERS = 700_000
"""Of which a domain must have half on this machine; of what is held out, a tenth as much is written."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Write text of this machine that models/tiny was not trained on.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    try:
        corpus = read_corpus(CHARACTERS)
    except TrainingError as error:
        sys.exit(f"held_out: {error}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in corpus.items():
        (folder / f"{name}.txt").write_text("\n\n".join(d.text for d in split.held_out), encoding="utf-8")


if __name__ == "__main__":
    main()
