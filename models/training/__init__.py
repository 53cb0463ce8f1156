"""Trains models/tiny: a small Mixture-of-Experts model from text that Debian and Python machines already have.

Boundary: reads local files, writes one checkpoint directory; nothing in the product imports it.
Caller: models/train_tiny.py (`make model`) and tests/model.
"""
