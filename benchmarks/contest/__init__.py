"""Contestants of ``benchmarks.speed``: the whole model in plain transformers, and ours in each of its forms.

``contestants`` lists them by the process that they live in, ``team`` is such a process, ``runs`` what they are told and
what they tell. ``whole``, ``generate`` and ``continuous`` are transformers, whose model ``unsharded`` loads; ``local``,
``sharded`` and ``http`` are ours. ``measurement`` has them run in turn (``rounds``), compares their tokens
(``equality``), makes rows (``figures``) and adds what memory allows (``limit``). ``models`` has the sizes.
"""
