"""The attacks of benchmarks/faults.py, a module for each kind of target."""
