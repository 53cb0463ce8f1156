"""``spec.runtime.kubeRay``: a Ray cluster of the deployment's own, which KubeRay runs as a RayService.

- ``runtime``: the port, for one deployment; ``objects``: what is known of children, by watches.
- Pure: ``state``, what a RayService tells, in the port's words; ``clusters``, which Ray clusters there are, and which
  of them answers; ``pods``, why pods do not come up; ``manifests``, what of Kubernetes' objects shall be there.
"""
