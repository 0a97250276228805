"""State shared by the dock widgets of one viewer, and the jobs that they run."""
