"""What ``clipfeat-extract`` does: plan, prepare, compute, write, in this process or on many."""
