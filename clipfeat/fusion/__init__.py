"""The Bi-Fusion encoder: CLIP features and geometry of the same points, fused by a gate, trained, merged online."""
