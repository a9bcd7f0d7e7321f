"""What runs in the process of `frazil.session.outbox.stream.process`."""

from frazil.session.outbox.stream.process import run_process

if __name__ == "__main__":
    run_process()
