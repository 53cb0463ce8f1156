"""Adaptive routing: experts of low gate weight are not computed where a row's other weights are enough.

Off unless it is asked for: what is computed is no longer exactly the model. Pure are ``rule`` (which pairs of a row are
kept), ``curve`` (thresholds and what they cost, by the pairs they save), ``controller`` (holds what was asked for as
the traffic drifts), ``thinning`` (all three, layer by layer), ``fit`` and ``interval`` (from measurements to thresholds
and figures). ``calibration`` is the file that carries a curve from ``moe-serve calibrate`` to who serves, and says
whether it allows what is asked; ``switch`` reads it in a replica. ``command`` is ``moe-serve calibrate``, ``text`` cuts
what it is given into windows, and ``measure`` computes them, with torch.
"""
