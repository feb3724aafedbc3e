"""What ``sb3_a3c.compare`` is made of: algorithms learn one after another, are evaluated afterwards, and are reported on."""
