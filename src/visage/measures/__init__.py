"""Pure functions that turn arrays into figures, one family a file, and the table that describes every figure."""
