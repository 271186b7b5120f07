"""Where the ledger is kept: one port, one contract suite, one module per backend."""
