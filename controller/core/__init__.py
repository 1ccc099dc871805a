"""Pure rules: states, matching, retries, liveness. No clock, no database, no I/O."""
