"""Proxy: tokens → a small trained model and the losses of every example at T snapshots."""
