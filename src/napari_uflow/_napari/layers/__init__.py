"""napari layers in, plain values out; and the transform that puts a result on top of its image.

Everything here runs in the thread of the window and returns values that hold arrays, never a layer.
"""
