"""Observed traffic moves experts: when to look, what to propose, what it was worth. Modules that decide are pure.

``windows`` and ``schedule`` tell when the traffic is looked at next, and ``verification`` whether a placement that came
of that stays.
"""
