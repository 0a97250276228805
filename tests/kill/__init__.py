"""Processes that are killed at random times: what they leave is complete, or is recognised and removed."""
