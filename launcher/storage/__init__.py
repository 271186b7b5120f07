"""Checkpoints, results and pointer generations: create-only objects behind one port."""
