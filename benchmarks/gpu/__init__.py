"""What only a GPU can show, in at most eight minutes: ``python -m benchmarks.gpu``."""
