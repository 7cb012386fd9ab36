{{/* The configuration of all roles: what the chart says over what `config` says. */}}
{{- define "sluice.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $cluster := dict "key_file" "/run/secrets/sluice/cluster-key" "trusted_network" .Values.cluster.trustedNetwork "admit_without_key" .Values.cluster.admitWithoutKey -}}
{{- if .Values.cluster.certificates.enabled -}}
{{- $cluster = merge $cluster (dict "certificate_file" "/run/secrets/sluice-certificate/tls.crt" "certificate_key_file" "/run/secrets/sluice-certificate/tls.key" "authority_file" "/run/secrets/sluice-certificate/ca.crt") -}}
{{- end -}}
{{- $scheduler := dict -}}
{{- if gt (int .Values.scheduler.replicas) 1 }}{{ $scheduler = dict "leader_lease" (printf "kubernetes:%s" (include "sluice.fullname" .)) }}{{ end -}}
{{- $hosts := .Values.gateway.hosts -}}
{{- if and $hosts (not (has "*" $hosts)) -}}
{{- /* Its Service is a name of it, too: helm test and others in the cluster ask by that. */ -}}
{{- $service := include "sluice.fullname" . -}}
{{- $full := printf "%s.%s" $service .Release.Namespace -}}
{{- $hosts = concat $hosts (list $service $full (printf "%s.svc" $full) (printf "%s.svc.cluster.local" $full)) -}}
{{- end -}}
{{- $gateway := dict "drain_timeout_ms" (mul (int .Values.gateway.drainSeconds) 1000) "hosts" $hosts -}}
{{- if .Values.gateway.keys.existingSecret }}{{ $gateway = set $gateway "keys_file" "/run/secrets/sluice-keys/keys.json" }}{{ end -}}
{{- $worker := dict "kv_net_devices" (ternary .Values.kv.netDevices "" (eq (include "sluice.kvNetwork" .) "ucx")) "kv_ucx_environment" (keys .Values.kv.ucxEnvironment | sortAlpha) -}}
{{- if eq (include "sluice.kvNetwork" .) "tls" }}{{ $worker = set $worker "kv_port" (int .Values.ports.kv) }}{{ end -}}
{{- $engine := dict "packed_dir" "/cache" -}}
{{- $kv := .Values.caches.kv -}}
{{- if $kv.hostGiB }}{{ $engine = set $engine "kv_host_bytes" (mul $kv.hostGiB 1073741824) }}{{ end -}}
{{- if $kv.disk.gib }}{{ $engine = set $engine "kv_disk" (dict "path" "/kv" "bytes" (mul $kv.disk.gib 1073741824)) }}{{ end -}}
{{- with $kv.store -}}
{{- if .endpoint }}{{ $engine = set $engine "kv_s3" (dict "endpoint" .endpoint "bucket" .bucket "credentials_file" "/run/secrets/sluice-store/credentials") }}{{ end -}}
{{- end -}}
{{- $caching := dict -}}
{{- with .Values.caches.answers -}}
{{- if .enabled }}{{ $caching = dict "enabled" true }}{{ end -}}
{{- if .shared.address -}}
{{- $shared := dict "address" .shared.address -}}
{{- if .shared.passwordSecret.name }}{{ $shared = set $shared "password_file" "/run/secrets/sluice-answers/password" }}{{ end -}}
{{- $caching = set $caching "shared" $shared -}}
{{- end -}}
{{- end -}}
{{- if .Values.adminKeys.existingSecret }}{{ $config = mergeOverwrite $config (dict "admin" (dict "keys_file" "/run/secrets/sluice-admin-keys/keys.json")) }}{{ end -}}
{{- if $caching }}{{ $config = mergeOverwrite $config (dict "caching" $caching) }}{{ end -}}
{{- mergeOverwrite $config (dict "cluster" $cluster "gateway" $gateway "worker" $worker "engine" $engine) (ternary (dict "scheduler" $scheduler) dict (ne (len $scheduler) 0)) | toYaml -}}
{{- end }}

{{/* SHA256SUMS of a model on a claim, below the folder that its path is in. */}}
{{- define "sluice.checksums" -}}
{{- range $file, $sum := .claim.checksums }}
{{ $sum }}  {{ $file }}
{{- end }}
{{- end }}
