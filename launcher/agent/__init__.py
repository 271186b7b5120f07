"""What sits beside a stage: runs the command, collects its outputs, commits its result.

Nothing here imports pydantic, the ledger's stores or a cloud client: a stage waits for these imports. What runs in
pods (``fetch``, ``collect``, ``pod_…``) waits for pydantic alone, in ``task``.
"""
