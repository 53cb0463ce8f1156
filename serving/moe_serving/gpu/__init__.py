"""Kernels in Triton for NVIDIA GPUs: what lies between the multiplications of a step, and the experts of a layer.

``rows``: norms, rotary embeddings with filing of keys and values, the gate's choice; ``attention``: of many sequences
that decode, over blocks of the cache; ``experts``: rows sorted by expert, projections over the slots of a pool, sums.
``lean`` puts the first two behind the table of functions by which ``engine/lean`` computes on any device; ``client``
answers MoE layers with experts in this process.

Importing any of them imports Triton, which torch's builds for CPUs come without: whoever may run there imports them
late. Under ``TRITON_INTERPRET=1``, set before Triton is imported, they run on CPU tensors: so they are tested.
"""
