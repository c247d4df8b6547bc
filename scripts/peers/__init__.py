"""Other projects' fusion beside clipfeat's, for ``scripts/compare_peers.py``."""
