"""What `scripts/peers.py` is made of: shapes, the files that other tools read, their reports."""
