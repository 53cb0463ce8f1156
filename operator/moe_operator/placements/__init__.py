"""ExpertPlacements: what their content says, which is migrated to, and what becomes of each.

- ``content``: pure; an object's content and the brain's ``Placement``, one from the other.
- ``validity``: pure; whether a content fits the deployment that it is for.
- ``book``: pure; all of a deployment, in order. ``choice``: pure; which of them is next, and what runs without one.
- ``story``: pure; what each is told. ``history``: pure; which may go.
- ``store``: what is known of them. ``keeper``: I/O; makes the objects say how things are, by ``attempts`` that are
  bounded; ``refusals``: pure; when one that was refused is made again.

``reconcile`` asks ``choice`` where it decides, and ``keeper`` at the end of a pass.
"""
