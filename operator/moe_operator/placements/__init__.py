"""ExpertPlacements: what their content says, whether it may be migrated to, and what becomes of each. Pure.

- ``content``: an object's content and the brain's ``Placement``, one from the other.
- ``validity``: whether a content fits the deployment that it is for.
- ``history``: which objects may go.
"""
