"""Pictures by name, and the tasks cut from them.

``load("digits")``, ``load("dir:FOLDER")``, ``load("npz:FILE")`` and ``load("tfds:NAME")``
give :class:`Pictures`: labels at once, pictures only when they are asked for.
:func:`read_task` samples a task of C classes x M pictures from the labels and reads no
other picture. Arrays of one's own need none of this: they go straight into ``Task``.
"""

from ttp_jax.data.pictures import Pictures
from ttp_jax.data.sources import load
from ttp_jax.data.tasks import Sample, TaskPictures, read_task, sample

__all__ = ["Pictures", "Sample", "TaskPictures", "load", "read_task", "sample"]
