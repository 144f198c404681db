"""A stand-in for what is used of cuda-python; see `cupy.stand_in`."""
