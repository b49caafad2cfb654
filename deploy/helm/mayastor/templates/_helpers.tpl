{{- define "mayastor.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- define "mayastor.labels" -}}
app.kubernetes.io/name: mayastor
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "mayastor.control" -}}
{{ .Release.Name }}-control.{{ .Release.Namespace }}:{{ .Values.control.port }}
{{- end }}
{{- define "mayastor.access" -}}
{{ .Values.access.existingSecret | default (printf "%s-access" .Release.Name) }}
{{- end }}
