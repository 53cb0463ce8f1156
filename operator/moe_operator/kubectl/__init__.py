"""``kubectl moe``: what people do with MoEDeployments and ExpertPlacements, from a terminal or a script.

- ``main``: arguments in, an answer or an exit code out. ``commands``: what each command does.
- ``cluster``: the objects, read and written by the ``kubectl`` that runs this plugin: with the user's context,
  credentials and rights, whatever kind they are of.
- ``rights``: verb and resource that each command needs, and the role that gives it.
- ``view``: objects as the commands read them; whatever stands in them, it is text on one line here.
- ``content``: placements compared. ``heatmap``, ``terminal``: how things look.
- ``loads``: where experts and shards are busy; ``asking``: the deployment itself asked for that.
- ``exits``: errors, and the code that each ends with.

It has to answer at once, so nothing here imports kopf, kubernetes, pydantic or NumPy.
"""
