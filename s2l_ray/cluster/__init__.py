"""The Ray cluster: joining or embedding one, what it has, who gets what, and messages from workers to the driver."""
