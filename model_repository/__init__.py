"""Triton models and the importable code behind them."""
