"""How many expert shards ``spec.experts.autoscaling`` wants, and why. Pure.

``usage``: how busy shards are, from two reports. ``need``: how many that asks for. ``steadying``: what was wanted for
long enough. ``bounds``: between which numbers, now. ``ownership``: who else writes the number. ``forecast``: how busy
shards become by a plan. ``decision``: all of it together.

``reconcile.autoscaling`` measures, asks for plans and writes.
"""
