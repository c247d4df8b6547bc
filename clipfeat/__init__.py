"""Lift frozen CLIP features from posed RGB-D frames onto 3D points."""

__version__ = "0.1.0"
