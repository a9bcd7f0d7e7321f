"""Training: the loop, what it trains, and what it leaves in the run folder.

- ``loop`` updates a network, batch by batch.
- ``windows`` and ``dense`` give it batches and losses: of crops for the networks that score windows, of patches for the
  fully convolutional one.
- ``processes`` and ``precision`` say where and in which numbers it computes.
- ``observers`` show its figures; ``run_folder`` keeps its checkpoints.
"""
