"""What a run leaves: a file, a report, pictures."""
