{{- define "brisk.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: brisk
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "brisk.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "brisk.image" -}}
{{ .root.Values.registry }}/{{ .name }}:{{ default .root.Chart.AppVersion .root.Values.tag }}
{{- end }}

{{- define "brisk.pullSecrets" -}}
{{- with .Values.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "brisk.agent.metricsPort" -}}
{{- $address := dig "http" "address" "" .Values.agent.config }}
{{- if or (not $address) (hasPrefix "127." $address) (hasPrefix "localhost" $address) (hasPrefix "[::1]" $address) }}
{{- fail "monitoring.agent needs agent.config.http.address to be reachable from other machines, such as 0.0.0.0:4078" }}
{{- end }}
{{- splitList ":" $address | last }}
{{- end }}
