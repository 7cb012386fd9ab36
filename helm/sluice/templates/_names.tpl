{{- define "sluice.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "sluice.name" .) .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "sluice.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels by which pods of this release are found; with `component` those of a role. Never changed: Deployments keep them. */}}
{{- define "sluice.selector" -}}
app.kubernetes.io/name: {{ include "sluice.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "sluice.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "sluice.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Of the schedulers, where several agree by a Lease on who leads. */}}
{{- define "sluice.schedulerAccount" -}}
{{- if and .Values.serviceAccount.create (gt (int .Values.scheduler.replicas) 1) -}}
{{ include "sluice.fullname" . }}-scheduler
{{- else -}}
{{ include "sluice.serviceAccount" . }}
{{- end -}}
{{- end }}

{{/* What --scheduler takes: one by its Service, several each by the name of its pod. */}}
{{- define "sluice.schedulerAddresses" -}}
{{- $name := printf "%s-scheduler" (include "sluice.fullname" .) -}}
{{- $port := int .Values.ports.control -}}
{{- if gt (int .Values.scheduler.replicas) 1 -}}
{{- $addresses := list -}}
{{- range $index := until (int .Values.scheduler.replicas) -}}
{{- $addresses = append $addresses (printf "%s-%d.%ss:%d" $name $index $name $port) -}}
{{- end -}}
{{ join "," $addresses }}
{{- else -}}
{{ printf "%s:%d" $name $port }}
{{- end -}}
{{- end }}

{{- define "sluice.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* Value of the label sluice_cluster. */}}
{{- define "sluice.clusterLabel" -}}
{{ default (printf "%s-%s" .Release.Namespace .Release.Name) .Values.monitoring.clusterLabel }}
{{- end }}

{{/* Roles that have pods, as JSON. */}}
{{- define "sluice.roles" -}}
{{- $roles := list "gateway" "scheduler" -}}
{{- range $role := list "prefill" "decode" "mixed" "encode" -}}
{{- $values := index $.Values $role -}}
{{- if or (gt (int $values.replicas) 0) $values.autoscaling.enabled -}}
{{- $roles = append $roles $role -}}
{{- end -}}
{{- end -}}
{{ toJson $roles }}
{{- end }}

{{/* What `--model` takes for a model of the chart: root, key (model, encoder). */}}
{{- define "sluice.modelPath" -}}
{{- $model := index .root.Values .key -}}
{{- if eq $model.source "builtin" -}}
stories260k
{{- else if eq $model.source "image" -}}
{{ printf "/%ss/%s" .key $model.image.path | trimSuffix "/" }}
{{- else if eq $model.source "pull" -}}
{{ printf "/%ss/%s" .key $model.name }}
{{- else -}}
{{ printf "/%ss/%s" .key $model.claim.path | trimSuffix "/" }}
{{- end -}}
{{- end }}

{{/* Whether a role's pods are those of a StatefulSet: several schedulers, and workers that say so. root, role. */}}
{{- define "sluice.isSet" -}}
{{- $one := index .root.Values .role -}}
{{- if eq .role "scheduler" -}}
{{- if gt (int $one.replicas) 1 }}yes{{ end -}}
{{- else if eq (default "Deployment" $one.kind) "StatefulSet" }}yes{{ end -}}
{{- end }}

{{/* Whether each pod of a role has a volume of its own that outlives it. root, role. */}}
{{- define "sluice.keepsKv" -}}
{{- $disk := .root.Values.caches.kv.disk -}}
{{- if and (has .role (list "prefill" "decode" "mixed")) $disk.gib $disk.storageClassName (include "sluice.isSet" .) }}yes{{ end -}}
{{- end }}

{{/* The claim where a pull puts models that all pods share; empty: each pod has its own. */}}
{{- define "sluice.storeClaim" -}}
{{- with .Values.model.store -}}
{{- if .existingClaim }}{{ .existingClaim }}{{ else if .create.size }}{{ include "sluice.fullname" $ }}-models{{ end -}}
{{- end -}}
{{- end }}

{{/* How KV goes between pods: ucx (in the clear, on a network that is trusted), tls, or not at all (empty). */}}
{{- define "sluice.kvNetwork" -}}
{{- if .Values.cluster.trustedNetwork -}}
{{ ternary "ucx" "" (ne .Values.kv.netDevices "") }}
{{- else -}}
tls
{{- end -}}
{{- end }}

{{- define "sluice.grace" -}}
{{- if kindIs "invalid" .terminationGracePeriodSeconds -}}
{{ add (int .preStopSeconds) (int .drainSeconds) 10 }}
{{- else -}}
{{ int .terminationGracePeriodSeconds }}
{{- end -}}
{{- end }}

{{/* Host names of the HTTPRoute, as JSON; none: all of its Gateway. */}}
{{- define "sluice.routeHostnames" -}}
{{ default (without .Values.gateway.hosts "*") .Values.gateway.route.hostnames | toJson }}
{{- end }}
