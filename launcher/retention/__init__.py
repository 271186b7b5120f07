"""Which bytes nothing needs any more, and the trash that they lie in before they go.

``reach`` says what is needed and what may go (pure), ``look`` reads ledger, pointers and store for it, ``collect``
moves and empties, ``leavings`` takes what killed processes left.
"""
