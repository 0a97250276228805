"""The model: backbone, feature normalisation, flow, and inference with them."""
