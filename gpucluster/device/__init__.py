"""Where arrays live and who computes on them: choose, measure, move, supervise."""
