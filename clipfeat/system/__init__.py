"""What the machine gives: files that appear whole, threads in order, memory, shares of the work."""
