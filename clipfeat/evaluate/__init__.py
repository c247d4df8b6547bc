"""Which features are better, measured on labelled frames.

To add a candidate, say ``mine``, which is a head that only serves to compare:

1. File: clipfeat/evaluate/mine.py with a subclass of ``Head`` (clipfeat/model/heads.py).
2. Row: ``HEADS`` in candidates.py: what makes it of the tokens' width, the configuration of the head, and a seed.
3. No YAML: ``candidates=[none,mine,mine+nearest]``; what is always compared stands in ``CANDIDATES`` in config.py.
"""
