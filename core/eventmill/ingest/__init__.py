"""Ingest: everything that happens to the events of a request before they are in the queue."""
