"""State shared by the dock widgets of one viewer, and their jobs."""
