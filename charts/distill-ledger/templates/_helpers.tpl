{{/* Names. A CronJob's has room for the eleven characters that its Jobs add: 52. */}}
{{- define "distill-ledger.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 27 | trimSuffix "-" -}}
{{- end -}}

{{- define "distill-ledger.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: distill-ledger
{{- end -}}

{{/* What selects this release's own pods; stage pods have no instance, which Argo CD would take for its own. */}}
{{- define "distill-ledger.selector" -}}
app.kubernetes.io/name: distill-ledger
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What selects its stages' pods: the launcher's labels, and the one that the profile adds. */}}
{{- define "distill-ledger.stageSelector" -}}
app.kubernetes.io/managed-by: distill-ledger
distill-ledger-release: {{ include "distill-ledger.fullname" . }}
{{- end -}}

{{/* (root, which): the name of the service account. */}}
{{- define "distill-ledger.account" -}}
{{- $one := get .root.Values.serviceAccounts .which -}}
{{- $one.name | default (printf "%s-%s" (include "distill-ledger.fullname" .root) .which) -}}
{{- end -}}

{{/* (root, name): what a pipeline's objects are called: nightly's in the release nightly, simply nightly. */}}
{{- define "distill-ledger.pipeline" -}}
{{- $release := include "distill-ledger.fullname" .root -}}
{{- if eq .name $release }}{{ $release }}{{ else }}{{ $release }}-{{ .name }}{{ end -}}
{{- end -}}

{{/* Every pointer that may have to be turned back, once, as JSON. */}}
{{- define "distill-ledger.pointers" -}}
{{- $pointers := list -}}
{{- range $name, $one := .Values.pipelines }}{{ with $one.promotionTarget }}{{ $pointers = append $pointers . }}{{ end }}{{ end -}}
{{- concat $pointers .Values.rollback.pointers | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/* (root, pointer): its rollback CronJob: RELEASE-rollback where there is one pointer alone. */}}
{{- define "distill-ledger.rollback" -}}
{{- $release := include "distill-ledger.fullname" .root -}}
{{- if eq (len (include "distill-ledger.pointers" .root | fromJsonArray)) 1 -}}
{{ $release }}-rollback
{{- else -}}
{{- $slug := .pointer | lower | replace "_" "-" | replace "." "-" -}}
{{- if or (ne $slug .pointer) (gt (len $slug) 15) -}}
{{- $slug = printf "%s-%s" ($slug | trunc 8 | trimSuffix "-") (.pointer | sha256sum | trunc 6) -}}
{{- end -}}
{{ $release }}-rollback-{{ $slug }}
{{- end -}}
{{- end -}}

{{- define "distill-ledger.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.pods.user }}
runAsGroup: {{ int64 .Values.pods.user }}
fsGroup: {{ int64 .Values.pods.user }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "distill-ledger.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where the pods of this chart may run. */}}
{{- define "distill-ledger.place" -}}
{{- $place := dict -}}
{{- with .Values.pods.nodeSelector }}{{ $_ := set $place "nodeSelector" . }}{{ end -}}
{{- with .Values.pods.tolerations }}{{ $_ := set $place "tolerations" . }}{{ end -}}
{{- with .Values.pods.priorityClass }}{{ $_ := set $place "priorityClassName" . }}{{ end -}}
{{- $secrets := list -}}
{{- range .Values.imagePullSecrets }}{{ $secrets = append $secrets (dict "name" .) }}{{ end -}}
{{- with $secrets }}{{ $_ := set $place "imagePullSecrets" . }}{{ end -}}
{{- with $place }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* (root, component): a pod's labels and annotations. */}}
{{- define "distill-ledger.podMetadata" -}}
labels:
  {{- include "distill-ledger.selector" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
  {{- with .root.Values.pods.labels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with .root.Values.pods.annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* (root, secretEnv, ledger): what leads a launcher to store and ledger. ledger false: the store alone is enough. */}}
{{- define "distill-ledger.environment" -}}
{{- $values := .root.Values -}}
- {name: HOME, value: /tmp}
- {name: LAUNCHER_STORE, value: {{ $values.store.url | quote }}}
- {name: LAUNCHER_PROJECT, value: {{ $values.project | quote }}}
{{- if and .ledger (eq $values.ledger.kind "sqlite") }}
- {name: LAUNCHER_LEDGER, value: sqlite}
- {name: LAUNCHER_HOME, value: /ledger}
{{- else }}
- {name: LAUNCHER_LEDGER, value: store}
{{- end }}
{{- range $name, $value := $values.settings }}
- {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- range $name, $value := $values.store.env }}
- {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- range $name, $from := .secretEnv }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {name: {{ $from.secret }}, key: {{ $from.key }}{{ if $from.optional }}, optional: true{{ end }}}
{{- end }}
{{- end -}}

{{/* (root, ledger): where a launcher may write, and the ledger's file where that is on a claim. */}}
{{- define "distill-ledger.mounts" -}}
- {name: project, mountPath: /project}
- {name: tmp, mountPath: /tmp}
{{- if and .ledger (eq .root.Values.ledger.kind "sqlite") }}
- {name: ledger, mountPath: /ledger}
{{- end }}
{{- end -}}

{{- define "distill-ledger.volumes" -}}
- {name: project, emptyDir: {}}
- {name: tmp, emptyDir: {}}
{{- if and .ledger (eq .root.Values.ledger.kind "sqlite") }}
- name: ledger
  persistentVolumeClaim:
    claimName: {{ .root.Values.ledger.sqlite.existingClaim | default (printf "%s-ledger" (include "distill-ledger.fullname" .root)) }}
{{- end }}
{{- end -}}

{{/* (root, name, pipeline): mount and volumes of what a pipeline runs. */}}
{{- define "distill-ledger.pipelineMounts" -}}
- {name: pipeline, mountPath: /project/pipeline, readOnly: true}
{{- if or .pipeline.files .pipeline.filesFrom }}
- {name: files, mountPath: /project/files, readOnly: true}
{{- end }}
{{- end -}}

{{- define "distill-ledger.pipelineVolumes" -}}
{{- $own := include "distill-ledger.pipeline" (dict "root" .root "name" .name) -}}
{{- $config := .pipeline.configFrom | default (dict "configMap" $own) -}}
{{- $profile := dict "configMap" $own -}}
{{- if .root.Values.profileFrom.configMap }}{{ $profile = .root.Values.profileFrom }}{{ end -}}
- name: pipeline
  projected:
    sources:
      - configMap:
          name: {{ $config.configMap }}
          items: [{key: {{ $config.key | default "config.env" }}, path: config.env}]
      - configMap:
          name: {{ $profile.configMap }}
          items: [{key: {{ $profile.key | default "profile.yaml" }}, path: profile.yaml}]
{{- if or .pipeline.files .pipeline.filesFrom }}
- name: files
  configMap: {name: {{ .pipeline.filesFrom | default (printf "%s-files" $own) }}}
{{- end }}
{{- end -}}

{{/* (root, pipeline): the profile: what the release knows, under what the values say. */}}
{{- define "distill-ledger.profile" -}}
{{- $values := .root.Values -}}
{{- $said := mustMergeOverwrite (deepCopy $values.profile) (deepCopy (.pipeline.profile | default dict)) -}}
{{- $agent := dict "image" $values.image "image_pull_policy" $values.imagePullPolicy -}}
{{- with $values.store.env }}{{ $_ := set $agent "env" . }}{{ end -}}
{{- with $values.store.stageSecretEnv | default $values.store.secretEnv }}{{ $_ := set $agent "secret_env" . }}{{ end -}}
{{- $defaults := dict "service_account" (include "distill-ledger.account" (dict "root" .root "which" "stages")) -}}
{{- $_ := set $defaults "labels" (dict "distill-ledger-release" (include "distill-ledger.fullname" .root)) -}}
{{- if hasKey $values.serviceAccounts.stages.annotations "eks.amazonaws.com/role-arn" -}}
{{- $others := list "command" -}}
{{- range $stage := prepend (values ($said.stages | default dict)) ($said.defaults | default dict) -}}
{{- range $stage.services }}{{ $others = append $others .name }}{{ end -}}
{{- end -}}
{{- $_ := set $defaults "annotations" (dict "eks.amazonaws.com/skip-containers" (join "," ($others | uniq))) -}}
{{- end -}}
{{- $account := include "distill-ledger.account" (dict "root" .root "which" "launcher") -}}
{{- $own := dict "namespace" .root.Release.Namespace "agent" $agent "defaults" $defaults "driver" (dict "service_account" $account) -}}
{{- mustMergeOverwrite $own $said | toYaml -}}
{{- end -}}

{{/* The rules for names and the store, of .Values.networkPolicy. */}}
{{- define "distill-ledger.dnsAndStore" -}}
- to: {{- toYaml .dns | nindent 4 }}
  ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
- to: {{- toYaml .store.to | nindent 4 }}
  ports: [{{ range $i, $port := .store.ports }}{{ if $i }}, {{ end }}{port: {{ int64 $port }}, protocol: TCP}{{ end }}]
{{- end }}
