"""Building blocks of the dock widgets."""
