"""The runtime: it chooses backends, and starts and stops the parts of a process."""
