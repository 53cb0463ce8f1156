"""The figures of the placement brain, one module each; ``benchmarks/placement.py`` runs them."""
