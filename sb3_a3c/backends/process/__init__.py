"""Workers in separate processes."""
