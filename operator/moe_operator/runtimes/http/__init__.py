"""HTTP as the operator speaks it with runtimes: where it may connect, and how much of an answer it takes."""
