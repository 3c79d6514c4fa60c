"""The command line. Exit codes: 0 good, 1 found a problem, 2 bad usage, 3 could not start."""
