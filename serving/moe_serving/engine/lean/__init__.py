"""A step of the model without transformers' modules: the same arithmetic in a tenth of the operations, on a CPU.

``choice`` decides once, at load, whether a model has it; ``layers`` takes the weights out of transformers' modules;
``step`` computes; ``kernels`` are its inner loops, ``workspace`` the tensors that it computes in. transformers' modules
stay the general path, and what this one is compared with.
"""
