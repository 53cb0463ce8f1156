"""Observed traffic moves experts: when to look, what to propose, what it was worth. Modules that decide are pure.

``windows`` and ``schedule`` tell when the traffic is looked at next, and ``verification`` whether a placement that came
of that stays.

``recent`` tells what came lately from statistics of all traffic, ``modelled`` what a step costs on what runs, and
``proposal`` makes a placement of both and judges it; ``looks`` has that done in a worker process. ``loop`` tells what
is written and approved of it, and ``words`` are for its messages.
"""
