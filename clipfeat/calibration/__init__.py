"""What ``check=…`` does: whether poses, K, depth and colour fit each other."""
