"""Names for clusters: what a model is shown, asked and believed, and names made without one."""
