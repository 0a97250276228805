"""Evaluation: metrics, trust report, figures, and the text that says how a result was obtained."""
