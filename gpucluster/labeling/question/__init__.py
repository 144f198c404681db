"""What a model is shown of a cluster, and what it is asked."""
