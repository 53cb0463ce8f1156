"""The operator as a process: options, start-up, leadership, the watch, and an orderly end. Called by ``cli``."""
