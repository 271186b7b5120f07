{{/* What no schema can say. One line each, with what to do. */}}
{{- define "distill-ledger.checks" -}}
{{- $values := .Values -}}
{{- if not $values.image }}{{ fail "image is not given: this project's own, built of its Dockerfile" }}{{ end -}}
{{- if not $values.project }}{{ fail "project is not given: a name for whose runs and pointers these are" }}{{ end -}}
{{- if not $values.store.url }}{{ fail "store.url is not given: s3://bucket/prefix" }}{{ end -}}
{{- range $name, $one := $values.pipelines -}}
{{- if and $one.config $one.configFrom }}{{ fail (printf "pipelines.%s has config and configFrom: one of them" $name) }}{{ end -}}
{{- if not (or $one.config $one.configFrom) }}{{ fail (printf "pipelines.%s has no config: what is it to run?" $name) }}{{ end -}}
{{- if and $one.files $one.filesFrom }}{{ fail (printf "pipelines.%s has files and filesFrom: one of them" $name) }}{{ end -}}
{{- range $line := splitList "\n" ($one.config | default "") -}}
{{- if regexMatch `^\s*(export\s+)?\w*(?i:KEY|TOKEN|SECRET|PASSWORD)\s*=\s*\S` $line -}}
{{- fail (printf "pipelines.%s.config gives %s a value, and a ConfigMap is no place for a secret: secret_env in the profile brings it" $name ($line | trim | splitList "=" | first)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $values.tests.run (ne $values.ledger.kind "store") }}{{ fail "tests.run needs ledger.kind=store: the file belongs to the pipelines' pods" }}{{ end -}}
{{- if and $values.profile $values.profileFrom.configMap }}{{ fail "profile and profileFrom.configMap: one of them" }}{{ end -}}
{{- if and $values.networkPolicy.enabled (not $values.networkPolicy.store.to) -}}
{{- fail "networkPolicy.store.to names nobody: where is the store? [{ipBlock: {cidr: 10.0.0.7/32}}], or networkPolicy.enabled=false" -}}
{{- end -}}
{{- end -}}
{{- include "distill-ledger.checks" . -}}
