"""What a run leaves, and the processes that it runs in."""
