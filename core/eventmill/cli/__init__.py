"""The commands of `eventmill`: `app` declares them and their options, one file per command runs it."""
