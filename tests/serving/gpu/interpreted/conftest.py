"""Tests of kernels on CPU tensors: run by ``test_interpreted``, whose child alone has Triton's interpreter."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
