"""What a finished run knows of documents, as columns: which there are, and how they are joined."""
