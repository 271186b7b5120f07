"""The launcher: runs self-distillation loops and tells the ledger what happened."""

__version__ = "0.1.0"
