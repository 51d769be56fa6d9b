"""What one forward is made of: rows in one flat list, pieces of long prompts, scored tokens, recorded graphs."""
