"""The process of `frazil.model.sandbox`."""

from frazil.model.sandbox import run_sandbox

if __name__ == "__main__":
    run_sandbox()
