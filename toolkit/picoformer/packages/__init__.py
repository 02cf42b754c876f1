"""A model's C as people take it: a library with its build file, one file, arrays, packages of the common toolchains."""
