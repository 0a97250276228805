"""napari layers in, plain values out; and the way back."""
