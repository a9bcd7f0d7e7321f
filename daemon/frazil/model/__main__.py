"""What runs in the process of `frazil.model.sandbox`."""

from frazil.model.sandbox import run_proof

if __name__ == "__main__":
    run_proof()
