"""Tamper evidence: the Merkle tree over the ledger's events."""
