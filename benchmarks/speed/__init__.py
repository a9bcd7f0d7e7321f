"""The benchmark suite: how fast frazil is, beside the floor, a straightforward version and other pickers.

``python -m benchmarks.speed`` measures everything and keeps the figures in ``docs/reference/speed/speed.json``, section
by section: ``--only NAME`` measures one again and leaves the others as they are. ``--pages`` makes the tables and
pictures of ``docs/reference/benchmarks.md`` from that file, ``--check`` says whether they are what it gives.

Machines are noisy. So what is compared is measured in turns, in one run; ratios are made within each turn, and what is
told is the median, with the least and the most beside it.
"""
