{{- define "cdlm.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "cdlm.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cdlm.labels" -}}
{{ include "cdlm.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "cdlm.metadata" -}}
name: {{ include "cdlm.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "cdlm.labels" . | nindent 2 }}
{{- end -}}

{{/* Fails the rendering on values that each pass the schema and cannot work together. */}}
{{- define "cdlm.check" -}}
{{- if and (hasPrefix "/models/" .Values.model.path) (not .Values.model.volume) -}}
{{- fail "model.path lies in /models, and model.volume is empty: nothing would be mounted there" -}}
{{- end -}}
{{- if and .Values.model.adapter (not .Values.model.path) -}}
{{- fail "model.adapter needs model.path, the checkpoint it was trained on" -}}
{{- end -}}
{{- range $name, $value := include "cdlm.env" . | fromYaml -}}
{{- if hasKey $.Values.server.extraEnv $name -}}
{{- fail (printf "server.extraEnv sets %s, which the chart sets from a value of its own" $name) -}}
{{- end -}}
{{- end -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and (eq (int .Values.strategy.maxSurge) 0) (eq (int .Values.strategy.maxUnavailable) 0) -}}
{{- fail "strategy.maxSurge and strategy.maxUnavailable are both 0: no rollout could begin" -}}
{{- end -}}
{{- end -}}

{{- define "cdlm.env" -}}
CDLM_HOST: 0.0.0.0
CDLM_PORT: {{ .Values.server.port | quote }}
CDLM_DEVICE: {{ ternary "cuda" "cpu" (gt (int .Values.gpu.count) 0) }}
{{- with .Values.model.path }}
CDLM_MODEL: {{ . | quote }}
{{- end }}
{{- with .Values.model.adapter }}
CDLM_ADAPTER: {{ . | quote }}
{{- end }}
{{- with .Values.model.servedName }}
CDLM_SERVED_MODEL_NAME: {{ . | quote }}
{{- end }}
CDLM_MAX_NUM_SEQS: {{ .Values.server.maxNumSeqs | quote }}
CDLM_MAX_WAITING_REQUESTS: {{ .Values.server.maxWaitingRequests | quote }}
CDLM_REQUEST_TIMEOUT_S: {{ .Values.server.requestTimeoutSeconds | quote }}
CDLM_ENGINE_HANG_TIMEOUT_S: {{ .Values.server.engineHangTimeoutSeconds | quote }}
CDLM_DRAIN_TIMEOUT_S: {{ .Values.shutdown.drainSeconds | quote }}
CDLM_LOG_LEVEL: {{ .Values.server.logLevel }}
{{- if .Values.auth.existingSecret }}
CDLM_API_KEY_FILE: /etc/cdlm/keys/keys
{{- end }}
HOME: /tmp
{{- end -}}
