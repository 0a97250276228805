"""From napari layers to plain values, and the transform that aligns a result with its image.

All of this runs in the main thread and returns values that hold arrays, not layers.
"""
