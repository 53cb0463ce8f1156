"""The framed binary protocol between processes of one deployment: attention to expert shards, attention to api, and
the directory with all of them.

From the inside out, each layer knowing only the ones before it:

- ``frames``: header and ``FrameDecoder``; ``tensors``: a frame's body as tensors, without copying. Sans-IO.
- ``handshake``: both peers prove the listener's random key; ``channel``: handshake, then frames. Sans-IO.
- ``endpoint``: listening sockets (unix and TCP) and the ``Address`` that is handed out for them.
- ``aio`` (event loops) and ``blocking`` (threads that poll): drivers that move bytes, nothing else.
- ``calls``: calls of named methods, for processes with event loops; ``caller``: to a process that others find.
- ``transport``: requests of torch tensors and the events of their completion, for the engine's thread.

All but ``torch_tensors`` and ``transport`` do without torch. A malformed or oversized frame, a wrong key or another
version ends that one connection.
"""
