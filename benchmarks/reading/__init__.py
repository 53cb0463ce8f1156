"""How fast experts are loaded: the parts of ``benchmarks.loading``."""
