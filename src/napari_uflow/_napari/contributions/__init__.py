"""Commands, readers, writers and sample data named in napari.yaml."""
