"""The page: what the operator looks at, at the HTTP address, with /metrics, /healthz and /readyz beside it.

It reads the ledger through a connection of its own and the daemon's state, and nothing of the daemon waits for it.

- `Application` answers requests.
- `PageServer` serves it from a thread with an event loop of its own.
- `browser/` holds what is sent to browsers: HTML, CSS and JavaScript, without a build step. `frame.html` stands
  around each page.
"""
