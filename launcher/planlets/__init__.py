"""Planlets as the relabel stage leaves them: how a tag file is cut up, and what each planlet is held to."""
