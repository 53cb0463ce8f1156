"""Which tests run when: `make check` while one works, and lanes side by side for the rest of `make test`.

`imports` reads from a test's file whether it needs torch, `plugin` gives each test its lane, `forbidden` ends a test of
the fast lane that starts what that lane does without, and `run` runs the lanes.
"""
