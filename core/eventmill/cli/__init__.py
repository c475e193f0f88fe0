"""The commands of `eventmill`: `app` declares them, each has a file of its own."""
