"""The root of the package's errors. Every message names what was wrong, where, and the cure."""


class MoEServingError(Exception):
    """Base of everything ``moe_serving`` raises on purpose."""
