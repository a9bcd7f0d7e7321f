"""How the daemon is: metrics, resources, heartbeats of its threads, the service manager, and the log."""
