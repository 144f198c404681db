"""See `rmm`."""
