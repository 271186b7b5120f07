"""What the ledger says, as Prometheus reads it."""
