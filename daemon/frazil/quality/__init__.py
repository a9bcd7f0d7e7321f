"""Pure assessment of a micrograph: its spectrum, its CTF, its grade. No sockets, no clock, no threads."""
