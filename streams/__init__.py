"""The Faust application: rooms that each do one thing, and the agents that join them."""
