"""What runs in the process of `frazil.models.proof`."""

from frazil.models.proof import run_proof

if __name__ == "__main__":
    run_proof()
