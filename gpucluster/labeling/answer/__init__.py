"""What a model may answer, and what of it is believed."""
