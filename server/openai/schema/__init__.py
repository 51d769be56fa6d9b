"""What the OpenAPI document says: the shapes of answers, chunks, events and errors, with examples."""
