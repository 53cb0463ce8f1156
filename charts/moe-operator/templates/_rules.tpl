{{/*
What the operator may do in the namespaces that it works, and nothing else. Each rule names the call that needs it. Those
for KubeRay are given where it is not installed, too: a MoEDeployment may ask for it at any time.
*/}}
{{- define "moe-operator.rules" -}}
{{ include "moe-operator.rules.deployments" . }}
{{ include "moe-operator.rules.kuberay" . }}
{{ include "moe-operator.rules.activations" . }}
{{- end -}}

{{- define "moe-operator.rules.deployments" -}}
# Watch what users ask for; patch: the operator's own finalizer.
- apiGroups: [moe-operator.io]
  resources: [moedeployments]
  verbs: [get, list, watch, patch]
# To scale, as spec.experts.autoscaling asks, and to sleep, as spec.sleep does.
- apiGroups: [moe-operator.io]
  resources: [moedeployments/scale]
  verbs: [update]
# The status, replaced once per reconcile.
- apiGroups: [moe-operator.io]
  resources: [moedeployments/status]
  verbs: [update]
# create: the object of a placement that runs and has none; patch: its decision, and the owner of one that a person wrote;
# delete: the history, of what the operator wrote itself.
- apiGroups: [moe-operator.io]
  resources: [expertplacements]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [moe-operator.io]
  resources: [expertplacements/status]
  verbs: [update]
# get: Secrets that a MoEDeployment names and whose label allows it (RBAC knows no labels, the operator checks them).
# create: the key between operator and directory; patch: the same, where somebody changed it. No list and no watch: it
# never sees what nobody names.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
# get, patch: counting an Event that is told again.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, get, patch]
{{- end -}}

{{- define "moe-operator.rules.kuberay" -}}
# What KubeRay runs for a deployment: made, repaired, and taken away to sleep. All are watched; get: before an object that
# the watch does not know is taken for one that is not there.
- apiGroups: [ray.io]
  resources: [rayservices]
  verbs: [get, list, watch, create, patch, delete]
# The bound by which Ray's autoscaler keeps spare pods.
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [list, watch, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
# Why a pod does not come up, and where its head is asked.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
{{- end -}}

{{/* Of the whole cluster, or of nothing: nodes are in no namespace. */}}
{{- define "moe-operator.rules.nodes" -}}
# Which node is cordoned, is taken away, or is dead; and the pods that go with it.
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [delete]
{{- end -}}

{{- define "moe-operator.rules.activations" -}}
# Where requests to a deployment that sleeps are led, and who may wake it. Without an activator nothing is led there, and
# what led to one that was removed is emptied.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [{{ if .Values.activator.enabled }}get, list, watch, create, patch{{ else }}list, watch, patch{{ end }}]
{{- end -}}

{{/* What the activator may do: no Secret and no spec is read, and of a MoEDeployment nothing but its scale written. */}}
{{- define "moe-operator.rules.activator" -}}
{{ include "moe-operator.rules.endpoints" . }}
# update: of the number of shards alone, from 0.
- apiGroups: [moe-operator.io]
  resources: [moedeployments/scale]
  verbs: [get, update]
{{- end -}}

{{/* For the Lease by which one operator is active. */}}
{{- define "moe-operator.rules.leader" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "moe-operator.fullname" . }}]
  verbs: [get, update]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
{{- end -}}

{{- define "moe-operator.rules.endpoints" -}}
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
{{- end -}}

{{/*
A Role with these `rules`, a text, and that `account` of the release's namespace has it; without a `namespace` of the whole
cluster. `root` is the chart's scope.
*/}}
{{- define "moe-operator.granted" -}}
{{- $scope := ternary "Cluster" "" (empty .namespace) -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $scope }}Role
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "moe-operator.labels" .root | nindent 4 }}
rules:
{{ .rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $scope }}RoleBinding
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "moe-operator.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $scope }}Role
  name: {{ .name }}
subjects:
- kind: ServiceAccount
  name: {{ .account }}
  namespace: {{ .root.Release.Namespace }}
{{- end -}}

{{/* What people may do: aggregated into the cluster's own roles, or Roles of one namespace. */}}
{{- define "moe-operator.rules.view" -}}
- apiGroups: [moe-operator.io]
  resources: [moedeployments, expertplacements]
  verbs: [get, list, watch]
{{- end -}}

{{- define "moe-operator.rules.edit" -}}
- apiGroups: [moe-operator.io]
  resources: [moedeployments]
  verbs: [create, delete, deletecollection, get, list, patch, update, watch]
- apiGroups: [moe-operator.io]
  resources: [moedeployments/scale]
  verbs: [get, patch, update]
- apiGroups: [moe-operator.io]
  resources: [expertplacements]
  verbs: [create, delete, deletecollection, get, list, watch]
{{- end -}}

{{- define "moe-operator.rules.approve" -}}
# Of the spec nothing but the decision can change.
- apiGroups: [moe-operator.io]
  resources: [expertplacements]
  verbs: [get, list, watch, patch, update]
{{- end -}}
