"""Triton kernels of the layer operations: twins of the functions in `hfcnn.ops`."""
