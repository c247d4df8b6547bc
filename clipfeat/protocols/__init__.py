"""The field's numbers: fused scenes predicted by text and counted as the published tables count.

To add a protocol, say ``mine``:

1. File: a YAML such as those in clipfeat/protocols/tables, and beside it the CSV of its classes (id,name and, where
   they are wanted, group and text) and perhaps a list of its scenes. ``protocol.py`` says what a file holds.
2. No row: ``protocol=mine.yaml`` takes it from wherever it lies. So that it is known by its name, in that folder, and
   the name in ``PROTOCOLS`` (config.py).
"""
