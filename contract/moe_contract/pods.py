"""What the operator writes into pods for the data plane's processes there to read."""

LEAVING_FILE_VARIABLE = "MOE_LEAVING_FILE"
"""Environment variable with the path of a file that is there once the pod is asked to end. In it is the Unix time, in
seconds, at which answers that are still under way are ended. Kubernetes tells only the first process of a container, so
the pod's preStop hook writes it. Unset where nobody does."""
