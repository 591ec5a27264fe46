"""Workers: the loops over samples, in this process, in several processes, or on a cluster.

A ``Team`` holds one object of the same kind on every worker and asks it for one result a sample. Sample i belongs to
worker i modulo their number, and results come back in the order of the samples. Whoever asks folds them in that order,
so the bytes of a result do not depend on the number of workers. ``Link`` is the connection to one worker: ``here`` (the
default), ``processes`` and ``cluster`` each have their own.
"""

from onnxptq.workers.here import HERE, Here
from onnxptq.workers.link import Link, Lost, Make, Workers, opened
from onnxptq.workers.team import Team

__all__ = ["HERE", "Here", "Link", "Lost", "Make", "Team", "Workers", "opened"]
