"""The napari plugin: all code that uses napari, Qt or magicgui."""
