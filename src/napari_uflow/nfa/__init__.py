"""The number of false alarms (NFA): which regions of a score map are too surprising to be normal."""
