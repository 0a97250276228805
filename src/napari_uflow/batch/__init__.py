"""Detection in many files, here or on a cluster."""
