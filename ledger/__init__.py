"""The run ledger: what happened, and what follows from it.

Rules of this package:

1. It imports nothing else of ours; ``launcher`` and ``k8s`` build on it.
2. Events are facts: immutable, past tense, written once as canonical JSON, hashed as stored.
3. ``decider`` and ``projections`` are pure: they take ``now`` and ids as arguments and do no I/O.
4. Only ``stores`` touches a disk.
"""
