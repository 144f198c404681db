"""Many questions at a time: faults, money, and replies that are kept."""
