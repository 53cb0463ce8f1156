"""What the Helm chart runs beside the operator: a look before `helm uninstall`, and what `helm test` tries."""
