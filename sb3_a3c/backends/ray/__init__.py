"""Workers on Ray: actors on one machine, or on many."""
