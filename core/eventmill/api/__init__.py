"""The HTTP API: `create_app` builds it, a file per concern."""
