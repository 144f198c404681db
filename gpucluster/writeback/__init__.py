"""Documents written once more, with what a run knows of them; and collections that change over."""
