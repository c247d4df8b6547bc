"""Which features are better, measured on labelled frames: metrics, probes, candidates and tables."""
