"""The loop that every stage descends in."""
