"""Which features are better, measured on labelled frames.

To add a candidate, say ``mine``, which is a head that only serves to compare:

1. File: clipfeat/evaluate/mine.py with a subclass of ``Head`` (clipfeat/model/heads.py).
2. Row: ``HEADS`` in candidates.py, with its import: what makes it of the tokens' width, the head's configuration and a
   seed, frozen (``.eval().requires_grad_(False)``). A head of the extraction needs no row here.
3. No YAML: ``candidates=[none,mine,mine+nearest]``; so that it is compared by default, its name in ``CANDIDATES``
   (config.py), where all of ``HEADS`` are.
"""
