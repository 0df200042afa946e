"""What a file shows, with the votes that say so."""
