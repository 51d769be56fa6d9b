"""The OpenAPI document: schemas of responses, chunks, events and errors, with examples."""
