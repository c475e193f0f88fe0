"""Helpers of tests and benchmarks. README.md says what each one is for."""
