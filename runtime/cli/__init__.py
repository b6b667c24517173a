"""The command line `cso`: thin commands over the runtime; data on stdout, everything else on stderr."""
