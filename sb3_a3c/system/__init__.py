"""Files, locks, memory, threads and cores: what the package needs of Python and of the operating system."""
