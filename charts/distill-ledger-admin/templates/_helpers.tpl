{{/* A list of names in CEL; one of none has to say of what it is. */}}
{{- define "distill-ledger-admin.names" -}}
{{- if . }}{{ toJson . }}{{ else }}[""]{{ end -}}
{{- end -}}
