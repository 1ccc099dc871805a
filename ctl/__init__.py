"""The `mediactl` command line."""
