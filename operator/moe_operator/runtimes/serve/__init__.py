"""What Serve tells and was told, in the port's words, be it by Ray's REST API or a RayService's status.

Pure. ``told``: what an application was told, of its configuration; ``applications``: how one is, of what Serve says of
it; ``problems``: what is wrong, in Serve's words; ``foreign``: what somebody else wrote; ``repeats``: when what does
not stay is written again.
"""
