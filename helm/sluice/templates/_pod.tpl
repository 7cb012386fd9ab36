{{- define "sluice.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: {{ .Values.securityContext.readOnlyRootFilesystem }}
capabilities:
  drop: [ALL]
{{- end }}

{{- define "sluice.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.securityContext.runAsUser }}
runAsGroup: {{ .Values.securityContext.runAsGroup }}
fsGroup: {{ .Values.securityContext.runAsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Compute threads of a worker: what it says, else its CPU request, which is what it can count on. */}}
{{- define "sluice.threads" -}}
{{- $cpu := default "1" (default dict .resources.requests).cpu | toString -}}
{{- if .threads -}}
{{ .threads }}
{{- else if hasSuffix "m" $cpu -}}
{{ max 1 (divf (trimSuffix "m" $cpu | int) 1000 | ceil | int) }}
{{- else -}}
{{ max 1 (float64 $cpu | ceil | int) }}
{{- end -}}
{{- end }}

{{/* Arguments of a role's process: root, role. */}}
{{- define "sluice.args" -}}
{{- $values := .root.Values -}}
{{- $one := index $values .role -}}
{{- $scheduler := include "sluice.schedulerAddresses" .root -}}
{{- $args := list .role "--config" "/etc/sluice/sluice.yaml" "--log-level" $values.logLevel "--listen-public" -}}
{{- if eq .role "gateway" -}}
{{- $args = concat $args (list "--model" (printf "%s=%s" $values.model.name (include "sluice.modelPath" (dict "root" .root "key" "model")))) -}}
{{- if $values.encoder.name -}}
{{- $args = concat $args (list "--encoder" (printf "%s=%s" $values.encoder.name (include "sluice.modelPath" (dict "root" .root "key" "encoder")))) -}}
{{- end -}}
{{- $args = concat $args (list "--scheduler" $scheduler "--host" "0.0.0.0" "--port" (toString $values.ports.http)) -}}
{{- else -}}
{{- $args = concat $args (list "--listen" (printf "$(POD_IP):%d" (int $values.ports.control)) "--admin-port" (toString $values.ports.admin)) -}}
{{- if ne .role "scheduler" -}}
{{- $key := ternary "encoder" "model" (eq .role "encode") -}}
{{- $model := index $values $key -}}
{{- $args = concat $args (list "--model" (include "sluice.modelPath" (dict "root" .root "key" $key)) "--served-name" $model.name "--scheduler" $scheduler) -}}
{{- $args = concat $args (list "--threads" (include "sluice.threads" $one)) -}}
{{- $args = concat $args (list "--set" (printf "worker.drain_timeout_ms=%d" (mul (int $one.drainSeconds) 1000))) -}}
{{- /* A pod that asked for a device and does not see it must not serve from its processors instead, as `auto` would. */ -}}
{{- if and (include "sluice.hasDevices" $one) (not (hasKey (default dict $values.config.engine) "device")) -}}
{{- $args = concat $args (list "--set" "engine.device=cuda:0") -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ concat $args $one.extraArgs | toJson }}
{{- end }}

{{/* Init containers that bring a model: root, key (model, encoder). */}}
{{- define "sluice.modelInit" -}}
{{- $model := index .root.Values .key -}}
{{- if and $model.name (eq $model.source "pull") }}
- name: {{ .key }}
  image: {{ include "sluice.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [sluice]
  args: {{ concat (list "model" "pull" $model.pull.from "--name" $model.name) (ternary (list "--sha256" $model.pull.sha256) list (ne $model.pull.sha256 "")) | toJson }}
  env:
    - {name: SLUICE_MODELS, value: /{{ .key }}s}
    - {name: HOME, value: /tmp}
    {{- with $model.pull.tokenSecret }}
    {{- if .name }}
    - name: HF_TOKEN
      valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}
    {{- end }}
    {{- end }}
  securityContext: {{- include "sluice.containerSecurity" .root | nindent 4 }}
  resources: {requests: {cpu: 100m, memory: 256Mi}, limits: {memory: 1Gi}}
  volumeMounts:
    - {name: {{ .key }}s, mountPath: /{{ .key }}s}
    - {name: tmp, mountPath: /tmp}
{{- else if and $model.name (eq $model.source "claim") $model.claim.checksums }}
- name: {{ .key }}-checksums
  image: {{ include "sluice.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [sha256sum, --check, --strict, --quiet, /etc/sluice/{{ .key }}.sha256]
  workingDir: {{ $path := include "sluice.modelPath" . }}{{ ternary (dir $path) $path (hasSuffix ".gguf" $path) }}
  securityContext: {{- include "sluice.containerSecurity" .root | nindent 4 }}
  resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 256Mi}}
  volumeMounts:
    - {name: config, mountPath: /etc/sluice, readOnly: true}
    - {name: {{ .key }}s, mountPath: /{{ .key }}s, readOnly: true}
{{- end }}
{{- end }}

{{/* The volume of a model: root, key. */}}
{{- define "sluice.modelVolume" -}}
{{- $model := index .root.Values .key -}}
- name: {{ .key }}s
{{- if eq $model.source "claim" }}
  persistentVolumeClaim: {claimName: {{ $model.claim.name }}, readOnly: true}
{{- else if eq $model.source "image" }}
  image: {reference: {{ $model.image.reference | quote }}, pullPolicy: IfNotPresent}
{{- else if and (eq $model.source "pull") (include "sluice.storeClaim" .root) }}
  persistentVolumeClaim: {claimName: {{ include "sluice.storeClaim" .root }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .root.Values.model.store.sizeLimit }}}
{{- end }}
{{- end }}

{{- define "sluice.affinity" -}}
{{- $one := index .root.Values .role -}}
{{- $placement := .root.Values.placement -}}
{{- if $one.affinity -}}
{{ toYaml $one.affinity }}
{{- else -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "sluice.selector" (dict "root" .root "component" .role) | nindent 12 }}
{{- if eq .role "decode" }}
podAffinity:
  {{- if $placement.required }}
  requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: {{ $placement.topologyKey }}
      labelSelector:
        matchLabels: {{- include "sluice.selector" (dict "root" .root "component" "prefill") | nindent 10 }}
  {{- else }}
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 50
      podAffinityTerm:
        topologyKey: {{ $placement.topologyKey }}
        labelSelector:
          matchLabels: {{- include "sluice.selector" (dict "root" .root "component" "prefill") | nindent 12 }}
  {{- end }}
{{- end }}
{{- if and (eq .role "gateway") $one.avoidGpuNodes }}
nodeAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      preference:
        matchExpressions:
          - {key: nvidia.com/gpu.present, operator: DoesNotExist}
{{- end }}
{{- end }}
{{- end }}

{{/* Probes: startup waits for loading, readiness follows drains and the model, liveness asks only whether the process answers. */}}
{{- define "sluice.probes" -}}
{{- $is_gateway := eq .role "gateway" -}}
{{- $port := ternary "http" "admin" $is_gateway -}}
startupProbe:
  httpGet: {path: {{ ternary "/live" "/ready" $is_gateway }}, port: {{ $port }}}
  periodSeconds: 5
  failureThreshold: {{ divf (int .one.startupSeconds) 5 | ceil | int }}
readinessProbe:
  httpGet: {path: /ready, port: {{ $port }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /live, port: {{ $port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* Whether each pod of a worker role has devices that there are no more of than pods. */}}
{{- define "sluice.hasDevices" -}}
{{- if or (gt (int .gpus) 0) .dra.deviceClassName }}yes{{ end -}}
{{- end }}

{{- define "sluice.resources" -}}
{{- $resources := deepCopy .one.resources -}}
{{- $extra := dict -}}
{{- if and .is_worker .one.dra.deviceClassName -}}
{{- $resources = set $resources "claims" (append (default list $resources.claims) (dict "name" "devices")) -}}
{{- end -}}
{{- if .one.gpus -}}
{{- $extra = set $extra .one.gpuResource (toString .one.gpus) -}}
{{- end -}}
{{- if and .is_worker .root.Values.kv.rdma.resource -}}
{{- $extra = set $extra .root.Values.kv.rdma.resource (toString .root.Values.kv.rdma.count) -}}
{{- end -}}
{{- if $extra -}}
{{- $resources = mergeOverwrite $resources (dict "limits" $extra) -}}
{{- end -}}
{{ toYaml $resources }}
{{- end }}

{{/* A role's Deployment, or its StatefulSet: root, role. */}}
{{- define "sluice.deployment" -}}
{{- $root := .root -}}
{{- $role := .role -}}
{{- $values := $root.Values -}}
{{- $one := index $values $role -}}
{{- $is_worker := not (has $role (list "gateway" "scheduler")) -}}
{{- $has_models := ne $role "scheduler" -}}
{{- $has_kv := has $role (list "prefill" "decode" "mixed") -}}
{{- $has_devices := false -}}
{{- if $is_worker }}{{ $has_devices = ne (include "sluice.hasDevices" $one) "" }}{{ end -}}
{{- $is_set := ne (include "sluice.isSet" .) "" -}}
{{- $stands_by := and $is_set (eq $role "scheduler") -}}
{{- $keeps_kv := ne (include "sluice.keepsKv" .) "" -}}
{{- $keys := list -}}
{{- if $has_models -}}
{{- $keys = ternary (list "encoder") (list "model") (eq $role "encode") -}}
{{- if and (eq $role "gateway") $values.encoder.name }}{{ $keys = list "model" "encoder" }}{{ end -}}
{{- end -}}
apiVersion: apps/v1
kind: {{ ternary "StatefulSet" "Deployment" $is_set }}
metadata:
  name: {{ include "sluice.fullname" $root }}-{{ $role }}
  labels: {{- include "sluice.labels" (dict "root" $root "component" $role) | nindent 4 }}
spec:
  {{- if $stands_by }}
  replicas: {{ $one.replicas }}
  serviceName: {{ include "sluice.fullname" $root }}-schedulers
  podManagementPolicy: Parallel
  {{- else if $is_set }}
  {{- if not $one.autoscaling.enabled }}
  replicas: {{ $one.replicas }}
  {{- end }}
  serviceName: {{ include "sluice.fullname" $root }}-{{ $role }}
  podManagementPolicy: Parallel
  {{- if $keeps_kv }}
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Delete}
  volumeClaimTemplates:
    - metadata: {name: kv}
      spec:
        accessModes: [ReadWriteOnce]
        storageClassName: {{ $values.caches.kv.disk.storageClassName }}
        resources: {requests: {storage: {{ add $values.caches.kv.disk.gib 1 }}Gi}}
  {{- end }}
  {{- else if eq $role "scheduler" }}
  replicas: 1
  strategy:
    type: Recreate  # two at once would be told apart by their epochs, but nobody gains by it
  {{- else }}
  {{- if not $one.autoscaling.enabled }}
  replicas: {{ $one.replicas }}
  {{- end }}
  strategy:
    rollingUpdate:
      maxSurge: {{ if kindIs "invalid" $one.maxSurge }}{{ ternary 0 1 $has_devices }}{{ else }}{{ $one.maxSurge }}{{ end }}
      maxUnavailable: {{ if kindIs "invalid" $one.maxUnavailable }}{{ ternary 1 0 $has_devices }}{{ else }}{{ $one.maxUnavailable }}{{ end }}
  {{- end }}
  selector:
    matchLabels: {{- include "sluice.selector" (dict "root" $root "component" $role) | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "sluice.labels" (dict "root" $root "component" $role) | nindent 8 }}
        {{- with $one.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        checksum/config: {{ include "sluice.config" $root | sha256sum }}
        {{- with $one.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include (ternary "sluice.schedulerAccount" "sluice.serviceAccount" (eq $role "scheduler")) $root }}
      automountServiceAccountToken: {{ $stands_by }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ include "sluice.grace" $one }}
      securityContext: {{- include "sluice.podSecurity" $root | nindent 8 }}
      {{- with $values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      {{- if and $is_worker $one.dra.deviceClassName }}
      resourceClaims:
        - {name: devices, resourceClaimTemplateName: {{ include "sluice.fullname" $root }}-{{ $role }}}
      {{- end }}
      {{- with $one.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $one.runtimeClassName }}
      runtimeClassName: {{ . }}
      {{- end }}
      {{- $inits := "" }}
      {{- range $key := $keys }}{{ $inits = print $inits (include "sluice.modelInit" (dict "root" $root "key" $key)) }}{{ end }}
      {{- with trim $inits }}
      initContainers: {{- . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ $role }}
          image: {{ include "sluice.image" $root }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          command: [sluice]
          args: {{- include "sluice.args" (dict "root" $root "role" $role) | fromJsonArray | toYaml | nindent 12 }}
          env:
            - name: POD_IP
              valueFrom: {fieldRef: {fieldPath: status.podIP}}
            - {name: HOME, value: /tmp}
            {{- if $is_worker }}
            {{- range $name, $value := $values.kv.ucxEnvironment }}
            - {name: {{ $name }}, value: {{ $value | quote }}}
            {{- end }}
            {{- end }}
            {{- with $one.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            {{- if eq $role "gateway" }}
            - {name: http, containerPort: {{ $values.ports.http }}}
            {{- else }}
            - {name: control, containerPort: {{ $values.ports.control }}}
            - {name: admin, containerPort: {{ $values.ports.admin }}}
            {{- end }}
          {{- include "sluice.probes" (dict "role" $role "one" $one) | nindent 10 }}
          {{- if $one.preStopSeconds }}
          lifecycle:
            preStop:
              sleep: {seconds: {{ $one.preStopSeconds }}}
          {{- end }}
          securityContext:
            {{- include "sluice.containerSecurity" $root | nindent 12 }}
            {{- if and $is_worker $values.kv.rdma.resource }}
              add: [IPC_LOCK]
            {{- end }}
          resources: {{- include "sluice.resources" (dict "root" $root "one" $one "is_worker" $is_worker) | nindent 12 }}
          volumeMounts:
            - {name: config, mountPath: /etc/sluice, readOnly: true}
            - {name: cluster-key, mountPath: /run/secrets/sluice, readOnly: true}
            {{- if $values.cluster.certificates.enabled }}
            - {name: certificate, mountPath: /run/secrets/sluice-certificate, readOnly: true}
            {{- end }}
            {{- if and (eq $role "gateway") $one.keys.existingSecret }}
            - {name: api-keys, mountPath: /run/secrets/sluice-keys, readOnly: true}
            {{- end }}
            {{- if and (ne $role "gateway") $values.adminKeys.existingSecret }}
            - {name: admin-keys, mountPath: /run/secrets/sluice-admin-keys, readOnly: true}
            {{- end }}
            {{- if and (eq $role "gateway") $values.caches.answers.shared.passwordSecret.name }}
            - {name: answers, mountPath: /run/secrets/sluice-answers, readOnly: true}
            {{- end }}
            {{- if and $has_kv $values.caches.kv.disk.gib }}
            - {name: kv, mountPath: /kv}
            {{- end }}
            {{- if and $has_kv $values.caches.kv.store.endpoint }}
            - {name: store, mountPath: /run/secrets/sluice-store, readOnly: true}
            {{- end }}
            - {name: tmp, mountPath: /tmp}
            {{- range $key := $keys }}
            - {name: {{ $key }}s, mountPath: /{{ $key }}s, readOnly: true}
            {{- end }}
            {{- if $is_worker }}
            - {name: cache, mountPath: /cache}
            - {name: shm, mountPath: /dev/shm}
            {{- end }}
      volumes:
        - name: config
          configMap: {name: {{ include "sluice.fullname" $root }}}
        - name: cluster-key
          secret:
            secretName: {{ $values.cluster.existingSecret }}
            defaultMode: 0440  # owned by fsGroup; the key is refused where others can read it
            items:
              - {key: {{ $values.cluster.secretKey }}, path: cluster-key}
        {{- if $values.cluster.certificates.enabled }}
        - name: certificate
          secret:
            secretName: {{ default (include "sluice.fullname" $root) $values.cluster.certificates.secretPrefix }}-{{ $role }}
            defaultMode: 0440
        {{- end }}
        {{- if and (eq $role "gateway") $one.keys.existingSecret }}
        - name: api-keys
          secret:
            secretName: {{ $one.keys.existingSecret }}
            defaultMode: 0440
            items:
              - {key: {{ $one.keys.secretKey }}, path: keys.json}
        {{- end }}
        {{- with $values.adminKeys }}
        {{- if and (ne $role "gateway") .existingSecret }}
        - name: admin-keys
          secret:
            secretName: {{ .existingSecret }}
            defaultMode: 0440
            items:
              - {key: {{ .secretKey }}, path: keys.json}
        {{- end }}
        {{- end }}
        {{- with $values.caches.answers.shared.passwordSecret }}
        {{- if and (eq $role "gateway") .name }}
        - name: answers
          secret:
            secretName: {{ .name }}
            defaultMode: 0440
            items:
              - {key: {{ .key }}, path: password}
        {{- end }}
        {{- end }}
        {{- with $values.caches.kv.disk }}
        {{- if and $has_kv .gib (not $keeps_kv) }}
        - name: kv
          {{- if .storageClassName }}
          ephemeral:
            volumeClaimTemplate:
              spec:
                accessModes: [ReadWriteOnce]
                storageClassName: {{ .storageClassName }}
                resources: {requests: {storage: {{ add .gib 1 }}Gi}}
          {{- else }}
          emptyDir: {sizeLimit: {{ add .gib 1 }}Gi}
          {{- end }}
        {{- end }}
        {{- end }}
        {{- with $values.caches.kv.store }}
        {{- if and $has_kv .endpoint }}
        - name: store
          secret:
            secretName: {{ .credentialsSecret.name }}
            defaultMode: 0440
            items:
              - {key: {{ .credentialsSecret.key }}, path: credentials}
        {{- end }}
        {{- end }}
        - name: tmp
          emptyDir: {sizeLimit: 1Gi}
        {{- range $key := $keys }}
        {{- include "sluice.modelVolume" (dict "root" $root "key" $key) | nindent 8 }}
        {{- end }}
        {{- if $is_worker }}
        - name: cache
          emptyDir: {sizeLimit: {{ $one.cacheSizeLimit }}}
        - name: shm
          emptyDir: {medium: Memory, sizeLimit: {{ $one.sharedMemory }}}
        {{- end }}
      affinity: {{- include "sluice.affinity" (dict "root" $root "role" $role) | nindent 8 }}
      {{- if and (eq $role "gateway") (not $one.affinity) }}
      topologySpreadConstraints:
        {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
        - topologyKey: {{ $key }}
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- include "sluice.selector" (dict "root" $root "component" $role) | nindent 14 }}
        {{- end }}
      {{- end }}
      {{- with $one.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $one.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}
