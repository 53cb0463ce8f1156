"""Tokens on their way from attention replicas to the api: one socket for each two processes, a frame per engine step.

A Serve call per request carries the request and lives as long as it does, so that Serve's routing, autoscaling,
draining and cancelling work as ever; the tokens go around it (an item of a Serve stream costs 0.7 ms). The api listens
(``receiver``), the replica connects to it (``sender``); ``source`` ties calls and streams together and goes on with an
answer on another replica when one is lost. No Ray and no torch here: ``serve`` brings both.
"""
