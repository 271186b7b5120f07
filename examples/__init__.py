"""Runnable examples. Nothing in the ledger or the launcher imports them."""
