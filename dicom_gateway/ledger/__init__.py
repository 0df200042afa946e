"""What the gateway has acknowledged, and publishing it."""
