"""What ``scripts/kill_test.py`` looks for."""
