"""Recording and replaying the order in which workers pull and push."""
