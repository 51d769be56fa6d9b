"""What another busy process costs a server, by how many threads it takes and how these wait."""
