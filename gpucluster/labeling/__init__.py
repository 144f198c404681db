"""Names for clusters. This version keeps and checks the settings; it does not label yet."""
