"""Names without a model: the words that set clusters apart."""
