"""What the configurations of all rooms share: checks, and where the YAML files are."""
