{{- define "brisk.scheduler.config" -}}
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection:
  leaderElect: true
  resourceName: brisk-scheduler
  resourceNamespace: {{ .Release.Namespace }}
{{- with .Values.scheduler.percentageOfNodesToScore }}
percentageOfNodesToScore: {{ . }}
{{- end }}
profiles:
  - schedulerName: {{ .Values.scheduler.name }}
    plugins:
      multiPoint:
        enabled:
          - name: BlockLocality
            weight: {{ .Values.scheduler.weight }}
          {{- if .Values.scheduler.gangs }}
          - name: Coscheduling
          {{- end }}
      {{- if .Values.scheduler.gangs }}
      queueSort:
        enabled:
          - name: Coscheduling
        disabled:
          - name: "*"
      {{- end }}
      # Before all others: it keeps them from concluding anything from a cycle that looked
      # at warm nodes only.
      postFilter:
        enabled:
          - name: BlockLocality
      # It counts images that are mounted lazily as if all of them were there.
      score:
        disabled:
          - name: ImageLocality
    {{- with .Values.scheduler.args }}
    pluginConfig:
      - name: BlockLocality
        args: {{- toYaml . | nindent 10 }}
    {{- end }}
{{- end }}
