{{/*
A CronJob of one launcher command that needs the store alone, or store and ledger.
(root, name, component, schedule, suspend, once, secretEnv, ledger, actor, args)

once: its pod is never replaced: one that was killed may have done its work, and to do it again is something else.
*/}}
{{- define "distill-ledger.careJob" -}}
{{- $root := .root -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ .name }}
  labels: {{- include "distill-ledger.labels" $root | nindent 4 }}
spec:
  schedule: {{ .schedule | quote }}
  timeZone: UTC
  suspend: {{ .suspend }}
  concurrencyPolicy: Forbid
  successfulJobsHistoryLimit: {{ int64 $root.Values.cron.history }}
  failedJobsHistoryLimit: {{ int64 $root.Values.cron.history }}
  jobTemplate:
    metadata:
      labels: {{- include "distill-ledger.selector" $root | nindent 8 }}
    spec:
      {{- if .once }}
      backoffLimit: 0
      {{- else }}
      backoffLimit: {{ int64 $root.Values.cron.replacements }}
      podReplacementPolicy: Failed
      # 5: the store is away; 137, 143: killed, told to end. Anything else comes again.
      podFailurePolicy:
        rules:
          - action: Ignore
            onPodConditions: [{type: DisruptionTarget, status: "True"}]
          - action: FailJob
            onExitCodes: {containerName: {{ .component }}, operator: NotIn, values: [0, 5, 137, 143]}
      {{- end }}
      template:
        metadata: {{- include "distill-ledger.podMetadata" . | nindent 10 }}
        spec:
          restartPolicy: Never
          serviceAccountName: {{ include "distill-ledger.account" (dict "root" $root "which" "care") }}
          automountServiceAccountToken: false
          enableServiceLinks: false
          {{- with include "distill-ledger.place" $root }}{{ . | nindent 10 }}{{ end }}
          securityContext: {{- include "distill-ledger.podSecurity" $root | nindent 12 }}
          containers:
            - name: {{ .component }}
              image: {{ $root.Values.image }}
              imagePullPolicy: {{ $root.Values.imagePullPolicy }}
              workingDir: /project
              args:
                {{- range .args }}
                - {{ . | toString | quote }}
                {{- end }}
              env:
                - {name: LAUNCHER_ACTOR, value: {{ .actor | quote }}}
                {{- include "distill-ledger.environment" . | nindent 16 }}
              resources: {{- toYaml $root.Values.pods.resources | nindent 16 }}
              securityContext: {{- include "distill-ledger.containerSecurity" $root | nindent 16 }}
              terminationMessagePolicy: FallbackToLogsOnError
              volumeMounts: {{- include "distill-ledger.mounts" . | nindent 16 }}
          volumes: {{- include "distill-ledger.volumes" . | nindent 12 }}
{{- end -}}
