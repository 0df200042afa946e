"""File to arrays: decoding, windowing, slices, views, signals."""
