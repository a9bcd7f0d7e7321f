"""Examples drawn from labelled micrographs, as numpy arrays; needs no torch.

- ``sampling`` gives every example a random generator of its own.
- ``crops`` cuts windows with one label each.
- ``patches`` cuts pieces with a target score for every cell.
"""
