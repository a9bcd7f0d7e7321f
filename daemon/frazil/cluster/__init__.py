"""Bulk work: an archive picked again, or models evaluated, by workers of a Dask cluster on one machine or many.

- ``names``: which micrographs there are, one by one.
- ``same``: what must be the same on every worker.
- ``work``: what a worker does with some of them.
- ``engine``: starts a cluster, or joins one, and hands work out.
- ``calls``: a function called for each of some names; for the trainer.
- ``run``: what is remembered of a run, and what has come of it.
- ``tasks``: work handed out, again where a worker died, until each micrograph has its outcome.
- ``sink``: what a run needs of the place to which its results go; ``own``: a ledger that this process holds;
  ``live``: one that a daemon holds, to which they are handed over; ``results``: which of them it is.
- ``repick``: takes what the workers hand back, has it written, and counts.

Nothing here is loaded by the daemon. Dask is imported by ``engine`` alone, when it is needed.
"""
