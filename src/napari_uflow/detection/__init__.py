"""Detection: from a model and an image to heatmap, labels and a table of regions."""
