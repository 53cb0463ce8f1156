"""Hypothesis judges results here, not speed: a busy machine, or a kernel's first compilation, is no failure."""

from hypothesis import settings

settings.register_profile("placement", deadline=None)
settings.load_profile("placement")
