"""The machine: devices, memory, disk-backed arrays."""
