"""A bundle behind HTTP: JSON in, JSON out, with a bound on everything that a client can make large or slow."""
