{{/* What OpenAI's clients ask for, below the route prefix; /metrics, /healthz and what the operator asks are not. */}}
{{- define "moe-operator.exposedPath" -}}
{{- include "moe-operator.routePrefix" . -}}/v1
{{- end -}}

{{/*
Of an Ingress, for the controllers that buffer or end streams by themselves: tokens are passed on as they come, bodies are
as large as the API takes, and nothing is sent a second time.
*/}}
{{- define "moe-operator.streaming" -}}
{{- $seconds := int .streamSeconds -}}
nginx.ingress.kubernetes.io/proxy-buffering: "off"
nginx.ingress.kubernetes.io/proxy-request-buffering: "off"
nginx.ingress.kubernetes.io/proxy-body-size: 16m
nginx.ingress.kubernetes.io/proxy-read-timeout: {{ $seconds | quote }}
nginx.ingress.kubernetes.io/proxy-send-timeout: {{ $seconds | quote }}
nginx.ingress.kubernetes.io/proxy-next-upstream: "off"
haproxy.org/timeout-server: {{ printf "%ds" $seconds }}
alb.ingress.kubernetes.io/load-balancer-attributes: {{ printf "idle_timeout.timeout_seconds=%d" $seconds }}
{{- end -}}
