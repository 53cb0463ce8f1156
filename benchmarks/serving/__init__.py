"""Load on any server that speaks OpenAI's API, and what became of each request.

``client`` asks and says how it ended; ``traffic`` decides when what is asked; ``figures`` counts; ``saturation``
searches; ``judge`` compares tokens with the unsharded model's; ``server`` starts a server of our own. The tests of the
data plane use the same.
"""
