"""The daemon behind ``frazil serve``: watch, intake, read, pick, ledger, files, stream, metrics."""
