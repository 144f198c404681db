"""Static pictures, drawn by Matplotlib from plain arrays."""
