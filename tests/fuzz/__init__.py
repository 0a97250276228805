"""Fuzzers: mutated files and command lines; each is used or refused with the program's own error, within its limits."""
