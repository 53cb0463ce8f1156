"""A Kubernetes cluster of real nodes on one machine: see hack/node/README.md."""
