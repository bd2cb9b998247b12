{{- define "brisk.scheduler.config" -}}
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection:
  leaderElect: true
  resourceName: brisk-scheduler
  resourceNamespace: {{ .Release.Namespace }}
clientConnection:
  qps: 200
  burst: 400
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
      # It gives an image that is lazy full marks.
      score:
        disabled:
          - name: ImageLocality
    {{- with .Values.scheduler.args }}
    pluginConfig:
      - name: BlockLocality
        args: {{- toYaml . | nindent 10 }}
    {{- end }}
{{- end }}
