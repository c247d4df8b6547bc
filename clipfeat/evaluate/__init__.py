"""Which features are better, measured on labelled frames."""
