"""A stand-in for the package vLLM: the command line and the protocol that the project uses, on a Unix socket."""
