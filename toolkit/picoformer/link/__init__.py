"""The serial protocol's host side: frames, messages, transports, and the device they speak to."""
