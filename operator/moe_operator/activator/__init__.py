"""Holds the first requests to a deployment that sleeps, has it woken, and answers them from it.

A process of its own, and no part of the operator's: of that it uses the names and the edge to Kubernetes. The operator
leads the Service of a sleeping deployment here, by an EndpointSlice that also tells who may wake it (``announcement``);
once the deployment serves, its requests go past. What is lost with this process is what it held.
"""
