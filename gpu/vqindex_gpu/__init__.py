"""The CUDA backend of vqindex. Importing it starts nothing: no CuPy, no driver, no compiler."""
