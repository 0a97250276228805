"""Drawn sample images, and the demonstration that runs on them."""
