"""What runs in the process of `frazil.service.stream.process`."""

from frazil.service.stream.process import run_process

if __name__ == "__main__":
    run_process()
