"""Trains models/tiny: `python models/train_tiny.py` (`make model`)."""

from training.cli import main

if __name__ == "__main__":
    main()
