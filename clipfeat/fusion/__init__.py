"""The Bi-Fusion encoder: 2D and 3D features joined, its losses, its online memory, its training."""
