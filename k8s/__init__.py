"""How a stage becomes a Job, and a Job's state a fact. Imports ``ledger`` only."""
