{{/* What tells this release's series from others: the labels that the PodMonitor gives them. */}}
{{- define "distill-ledger.series" -}}
{{- .Values.monitoring.selector | default (printf "namespace=%q,release=%q" .Release.Namespace (include "distill-ledger.fullname" .)) -}}
{{- end -}}
