"""PyTorch's own backend tests, run on merak and on Gloo."""
