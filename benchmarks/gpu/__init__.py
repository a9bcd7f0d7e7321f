"""The GPU path on a GPU: a kit for a machine with a GPU and without a network.

`prepare` packs all that such a machine needs into parts; `unpack`, which travels with them, installs it there; `run`
measures there; `pages` writes the tables. `dry_run` does all of it here, on the CPU, with little data.
"""
