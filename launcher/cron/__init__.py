"""Runs that a clock starts: one for each slot of a schedule."""
