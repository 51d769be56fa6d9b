"""Problems in everyday wording."""
