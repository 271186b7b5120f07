"""A small, real self-distillation loop on BabyAI-GoToLocal-v0: capture, relabel, retrain, evaluate.

Four ordinary commands, run with ``python -m examples.minigrid.<stage>``. They read the environment that a
stage gets and their flags, and know nothing of what records them.
"""
