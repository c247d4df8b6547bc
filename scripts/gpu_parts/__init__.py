"""The parts of ``scripts/gpu_check.sh``: scans to read, what each part of a frame costs, runs and what bounds them."""
