{{- define "moe-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "moe-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* By which a Deployment knows its pods: never changed by an upgrade. */}}
{{- define "moe-operator.selector" -}}
app.kubernetes.io/name: {{ include "moe-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "moe-operator.labels" -}}
{{ include "moe-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.extraLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "moe-operator.serviceAccount" -}}
{{- default (ternary (include "moe-operator.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "moe-operator.activator" -}}
{{- printf "%s-activator" (include "moe-operator.fullname" . | trunc 53 | trimSuffix "-") -}}
{{- end -}}

{{/* Of .Values.operator, before a port. */}}
{{- define "moe-operator.bindHost" -}}
{{- ternary (printf "[%s]" .bindAddress) .bindAddress (contains ":" .bindAddress) -}}
{{- end -}}

{{/* Of a deployment that the values name; without a slash at its end. */}}
{{- define "moe-operator.routePrefix" -}}
{{- default (printf "/%s/%s" .namespace .name) .routePrefix | trimSuffix "/" -}}
{{- end -}}

{{- define "moe-operator.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What every pod of the operator's image connects to: names, and the API server. */}}
{{- define "moe-operator.egress" -}}
- to:
    - namespaceSelector:
        matchLabels: {kubernetes.io/metadata.name: kube-system}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
# The API server has no labels, and its address differs from cluster to cluster.
- ports:
    {{- range .Values.networkPolicy.egress.apiServerPorts }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end -}}

{{/* Of a container of the operator's image: what the Pod Security Standard "restricted" asks for. */}}
{{- define "moe-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What the schema cannot say, since it is about several values. */}}
{{- define "moe-operator.check" -}}
{{- if and .Values.namespaces .Values.crds.enabled -}}
{{- fail "crds.enabled must be false where namespaces are named: CRDs belong to the whole cluster, and releases beside each other would each own them. An administrator installs them once: kubectl apply --server-side -f crds/" -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.name must be set where serviceAccount.create is false: the rights would go to the namespace's default ServiceAccount, and so to every pod in it" -}}
{{- end -}}
{{- with .Values.exposed }}
{{- if and .httpRoute.enabled (not .httpRoute.gateway.create) (not .httpRoute.parentRefs) -}}
{{- fail "exposed.httpRoute.parentRefs is empty: name the Gateway whose listener ends TLS, or have one made by exposed.httpRoute.gateway.create" -}}
{{- end -}}
{{- if and .httpRoute.enabled .httpRoute.gateway.create .httpRoute.parentRefs -}}
{{- fail "exposed.httpRoute.parentRefs and exposed.httpRoute.gateway.create exclude each other: a route would be led to by both Gateways" -}}
{{- end -}}
{{- if and .httpRoute.gateway.create (not (and .httpRoute.gateway.className .httpRoute.gateway.tlsSecretName)) -}}
{{- fail "exposed.httpRoute.gateway needs className, of a GatewayClass, and tlsSecretName, of a certificate in the release's namespace" -}}
{{- end -}}
{{- if and (or .ingress.enabled .httpRoute.enabled) (not .deployments) -}}
{{- fail "exposed.deployments is empty: name those whose API is to be reached, each with name, namespace and host" -}}
{{- end -}}
{{- end }}
{{- if and .Values.monitoring.serviceMonitor.enabled .Values.monitoring.podMonitor.enabled -}}
{{- fail "monitoring.serviceMonitor.enabled and monitoring.podMonitor.enabled exclude each other: every figure would be scraped twice" -}}
{{- end -}}
{{- end -}}

{{/* As whom and where pods of the operator's image run; the user is what the same standard asks for. */}}
{{- define "moe-operator.place" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A container of the operator's image that runs another of its commands once. */}}
{{- define "moe-operator.helper" -}}
image: {{ include "moe-operator.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
resources:
  requests: {cpu: 50m, memory: 128Mi}
  limits: {memory: 256Mi}
securityContext:
  {{- include "moe-operator.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
{{- end -}}
