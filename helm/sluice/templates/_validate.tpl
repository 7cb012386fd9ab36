{{/* Rules over several values, which a schema cannot say. Every message says what to set. */}}
{{- define "sluice.validate" -}}
{{- $values := .Values -}}
{{- $roles := include "sluice.roles" . | fromJsonArray -}}
{{- if not $values.image.repository }}{{ fail "image.repository is required: the registry and name of the image that docker/cpu.Dockerfile builds" }}{{ end -}}
{{- if eq $values.image.tag "latest" }}{{ fail "image.tag is latest: pods that start on different days would run different versions. Name a version, or a digest" }}{{ end -}}
{{- if not $values.cluster.existingSecret }}
{{- fail "cluster.existingSecret is required: kubectl create secret generic sluice-key --from-literal=cluster-key=$(openssl rand -hex 16), then --set cluster.existingSecret=sluice-key" }}
{{- end -}}
{{- if and $values.cluster.certificates.enabled $values.cluster.admitWithoutKey }}{{ fail "cluster.certificates and cluster.admitWithoutKey contradict each other: the latter serves processes that show neither key nor certificate" }}{{ end -}}
{{- if not $values.model.name }}{{ fail "model.name is required: the model's name in the API" }}{{ end -}}
{{- if and (not (has "mixed" $roles)) (not (and (has "prefill" $roles) (has "decode" $roles))) }}
{{- fail "nobody can serve a whole request: prefill.replicas and decode.replicas above 0, or mixed.replicas above 0" }}
{{- end -}}
{{- if and (has "encode" $roles) (not $values.encoder.name) }}{{ fail "encode has replicas, but encoder.name names no encoder" }}{{ end -}}
{{- if and $values.encoder.name (not (has "encode" $roles)) }}{{ fail "encoder.name is set, but encode.replicas is 0" }}{{ end -}}
{{- if and (has "prefill" $roles) (not (include "sluice.kvNetwork" .)) }}
{{- fail "kv.netDevices is empty: KV cannot go from prefill pods to decode pods. Name the pods' interface (eth0), or use mixed workers alone, or cluster.trustedNetwork false: then KV goes over TLS" }}
{{- end -}}

{{- range $key := list "model" "encoder" -}}
{{- $model := index $values $key -}}
{{- if $model.name -}}
{{- if eq $model.source "pull" -}}
{{- if not $model.pull.from }}{{ fail (printf "%s.pull.from is required: what `sluice model pull` takes, e.g. hf:ORG/REPO@REVISION" $key) }}{{ end -}}
{{- if hasPrefix "pip:" $model.pull.from }}{{ fail (printf "%s.pull.from is %s: the image has no pip to fetch it. Take a name of the catalogue, hf:ORG/REPO@REVISION, or a claim" $key $model.pull.from) }}{{ end -}}
{{- if and (hasPrefix "hf:" $model.pull.from) (not (contains "@" $model.pull.from)) }}
{{- fail (printf "%s.pull.from has no revision: pods that start on different days would serve different weights. Write hf:ORG/REPO@REVISION" $key) }}
{{- end -}}
{{- if and (hasPrefix "https:" $model.pull.from) (not $model.pull.sha256) }}{{ fail (printf "%s.pull.sha256 is required for https:" $key) }}{{ end -}}
{{- else if eq $model.source "image" -}}
{{- if not $model.image.reference }}{{ fail (printf "%s.image.reference is required: an image or artifact that holds the model, by its digest, e.g. registry.example.org/models/m@sha256:..." $key) }}{{ end -}}
{{- if semverCompare "<1.33-0" $.Capabilities.KubeVersion.Version }}{{ fail (printf "%s.source image needs Kubernetes 1.33 or newer with the feature ImageVolume; this one is %s. Take a claim, or pull" $key $.Capabilities.KubeVersion.Version) }}{{ end -}}
{{- else if eq $model.source "claim" -}}
{{- if not $model.claim.name }}{{ fail (printf "%s.claim.name is required: a PersistentVolumeClaim that exists" $key) }}{{ end -}}
{{- if not $model.claim.path }}{{ fail (printf "%s.claim.path is required: where in the claim the model is" $key) }}{{ end -}}
{{- if and (not $model.claim.checksums) (not $model.claim.allowUnverified) }}
{{- fail (printf "%s.claim.checksums is empty: state the SHA-256 of the weights (cd FOLDER && sha256sum *), or set %s.claim.allowUnverified" $key $key) }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- with $values.model.store -}}
{{- if and .existingClaim .create.size }}{{ fail "model.store.existingClaim and model.store.create both name where models are put: say one of them" }}{{ end -}}
{{- if and .create.size (ne $values.model.source "pull") (or (not $values.encoder.name) (ne $values.encoder.source "pull")) }}
{{- fail "model.store.create makes a claim that nobody would use: neither model.source nor encoder.source is pull" }}
{{- end -}}
{{- end -}}

{{- range $role := $roles -}}
{{- $one := index $values $role -}}
{{- if and (hasKey $one "kind") (eq $one.kind "StatefulSet") (or (not (kindIs "invalid" $one.maxSurge)) (not (kindIs "invalid" $one.maxUnavailable))) }}
{{- fail (printf "%s.maxSurge and %s.maxUnavailable are of Deployments: the pods of a StatefulSet are replaced one at a time, without a surge" $role $role) }}
{{- end -}}
{{- $grace := include "sluice.grace" $one | int -}}
{{- $least := add (int $one.preStopSeconds) (int $one.drainSeconds) 5 | int -}}
{{- if le $grace $least }}
{{- fail (printf "%s.terminationGracePeriodSeconds is %d: it must be more than preStopSeconds + drainSeconds + 5 = %d, or pods are killed while they finish requests" $role $grace $least) }}
{{- end -}}
{{- $limits := default dict $one.resources.limits -}}
{{- if and $one.gpuResource (hasKey $limits $one.gpuResource) }}{{ fail (printf "%s.resources.limits has %s: say %s.gpus instead" $role $one.gpuResource $role) }}{{ end -}}
{{- if gt (default 0 $one.gpus | int) 1 }}
{{- fail (printf "%s.gpus is %d: a worker of this version computes on one device, the others would be held and idle. Say %s.gpus 1 and more replicas; a plan with tensor or pipeline above 1 cannot be served yet" $role (int $one.gpus) $role) }}
{{- end -}}
{{- with $one.dra }}
{{- if and .deviceClassName (gt (int .count) 1) }}
{{- fail (printf "%s.dra.count is %d: a worker of this version computes on one device, the others would be held and idle. Say %s.dra.count 1 and more replicas" $role (int .count) $role) }}
{{- end -}}
{{- if and (eq $role "encode") (or .deviceClassName (gt (int $one.gpus) 0)) }}{{ fail "encode.gpus and encode.dra: sentence encoders compute on processors, a device would be held and idle" }}{{ end -}}
{{- if and .deviceClassName (gt (int $one.gpus) 0) }}{{ fail (printf "%s.gpus and %s.dra both ask for devices: say one of them" $role $role) }}{{ end -}}
{{- end -}}
{{- if $one.pdb.enabled -}}
{{- if and (ne $role "scheduler") (eq (toString $one.pdb.maxUnavailable) "0") }}{{ fail (printf "%s.pdb.maxUnavailable is 0: no node could ever be drained" $role) }}{{ end -}}
{{- end -}}
{{- if ne $role "scheduler" -}}
{{- if and (eq (toString $one.maxSurge) "0") (eq (toString $one.maxUnavailable) "0") }}{{ fail (printf "%s.maxSurge and %s.maxUnavailable are both 0: no pod could ever be replaced" $role $role) }}{{ end -}}
{{- with $one.autoscaling -}}
{{- if .enabled -}}
{{- if lt (int .maxReplicas) (int .minReplicas) }}{{ fail (printf "%s.autoscaling.maxReplicas is below minReplicas" $role) }}{{ end -}}
{{- if not $values.monitoring.enabled }}{{ fail (printf "%s.autoscaling needs monitoring.enabled: it asks Prometheus for series with the label sluice_cluster" $role) }}{{ end -}}
{{- if and (eq $values.autoscaling.kind "keda") (not $values.autoscaling.prometheusUrl) }}{{ fail "autoscaling.prometheusUrl is required for keda" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range $path := list "admin.keys_file" "gateway.drain_timeout_ms" "gateway.host" "gateway.port" "gateway.hosts" "gateway.keys_file" "scheduler.leader_lease" "worker.drain_timeout_ms" "worker.kv_net_devices" "worker.kv_port" "worker.kv_ucx_environment" "engine.packed_dir" -}}
{{- $parts := splitList "." $path -}}
{{- if hasKey (default dict (index $values.config (first $parts))) (last $parts) }}
{{- fail (printf "config.%s is written by the chart: say it with the chart's own values" $path) }}
{{- end -}}
{{- end -}}
{{- $answers := $values.caches.answers -}}
{{- $store := $values.caches.kv.store -}}
{{- range $path, $instead := dict "caching.enabled" "caches.answers.enabled" "caching.shared.address" "caches.answers.shared" "caching.shared.password_file" "caches.answers.shared.passwordSecret" "engine.kv_host_bytes" "caches.kv.hostGiB" "engine.kv_disk.path" "caches.kv.disk" "engine.kv_disk.bytes" "caches.kv.disk" "engine.kv_s3.endpoint" "caches.kv.store" "engine.kv_s3.credentials_file" "caches.kv.store.credentialsSecret" -}}
{{- $section := $values.config -}}
{{- $parts := splitList "." $path -}}
{{- range initial $parts }}{{ $section = default dict (index (default dict $section) .) }}{{ end -}}
{{- if hasKey $section (last $parts) }}{{ fail (printf "config.%s is written by the chart: say %s" $path $instead) }}{{ end -}}
{{- end -}}
{{- if and (default dict $values.config.tracing).otlp_endpoint $values.networkPolicy.enabled (not $values.networkPolicy.collector) }}
{{- fail "networkPolicy.collector is required with config.tracing.otlp_endpoint: peers of a NetworkPolicy by which gateways and workers reach it, e.g. [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: tracing}}}]" }}
{{- end -}}
{{- if hasKey (default dict $values.config.caching) "store_file" }}
{{- fail "config.caching.store_file has no volume to be on: gateways keep answers beyond their end on a server that they share, caches.answers.shared" }}
{{- end -}}
{{- if $answers.shared.address -}}
{{- if not $answers.enabled }}{{ fail "caches.answers.shared.address is set, but caches.answers.enabled is false" }}{{ end -}}
{{- if not $answers.shared.inTheClear }}{{ fail "caches.answers.shared.inTheClear must be true: the way to that server is not encrypted. Say so where you trust the network between" }}{{ end -}}
{{- if and $values.networkPolicy.enabled (not $answers.shared.peers) }}
{{- fail "caches.answers.shared.peers is required with networkPolicy: peers of a NetworkPolicy by which gateways reach the server, e.g. [{podSelector: {matchLabels: {app: valkey}}}]" }}
{{- end -}}
{{- end -}}
{{- if $store.endpoint -}}
{{- if not $store.bucket }}{{ fail "caches.kv.store.bucket is required with caches.kv.store.endpoint" }}{{ end -}}
{{- if not $store.credentialsSecret.name }}{{ fail "caches.kv.store.credentialsSecret.name is required: a Secret with a file of aws_access_key_id and aws_secret_access_key" }}{{ end -}}
{{- if and $values.networkPolicy.enabled (not $store.peers) }}
{{- fail "caches.kv.store.peers is required with networkPolicy: peers of a NetworkPolicy by which workers reach the store, e.g. [{ipBlock: {cidr: 192.0.2.7/32}}]" }}
{{- end -}}
{{- end -}}
{{- $route := $values.gateway.route -}}
{{- $pool := $values.gateway.inferencePool -}}
{{- if $route.enabled -}}
{{- if not $route.parentRefs }}{{ fail "gateway.route.parentRefs is required: the Gateway that the route belongs to, e.g. [{name: public, namespace: ingress, sectionName: https}]" }}{{ end -}}
{{- if and $values.gateway.hosts (not (has "*" $values.gateway.hosts)) -}}
{{- range $name := $route.hostnames -}}
{{- if not (has $name $values.gateway.hosts) }}{{ fail (printf "gateway.route.hostnames has %s, which gateway.hosts does not: the gateway would answer 403 to it" $name) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $pool.enabled (not $pool.endpointPicker.name) }}
{{- fail "gateway.inferencePool.endpointPicker.name is required: the Service of an endpoint picker in this namespace. Sluice brings none: without one gateway.route leads to the Service" }}
{{- end -}}
{{- if and (or $route.enabled $pool.enabled) $values.networkPolicy.enabled (not $values.networkPolicy.proxies) }}
{{- fail "networkPolicy.proxies is required with gateway.route or gateway.inferencePool: peers of a NetworkPolicy by which the Gateway's proxies (and the picker) reach the gateway, e.g. [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress}}}]" }}
{{- end -}}
{{- if $values.gateway.keys.existingSecret -}}
{{- if and $values.monitoring.enabled (not $values.monitoring.apiKeySecret.name) }}{{ fail "monitoring.apiKeySecret.name is required with gateway.keys: a Secret with an API key of scope admin (sluice keys add --scopes admin), or Prometheus gets no metrics of the gateway" }}{{ end -}}
{{- if and $values.test.enabled (not $values.test.apiKeySecret.name) }}{{ fail "test.apiKeySecret.name is required with gateway.keys: a Secret with an API key for helm test, or test.enabled false" }}{{ end -}}
{{- end -}}
{{- if and $values.adminKeys.existingSecret $values.monitoring.enabled (not $values.monitoring.apiKeySecret.name) }}{{ fail "monitoring.apiKeySecret.name is required with adminKeys: a Secret with an API key of scope admin (sluice keys add --scopes admin), or Prometheus gets no metrics of schedulers and workers" }}{{ end -}}
{{- if $values.monitoring.enabled -}}
{{- $interval := trimSuffix "s" $values.monitoring.interval | int -}}
{{- if ge (trimSuffix "s" $values.monitoring.scrapeTimeout | int) $interval }}{{ fail "monitoring.scrapeTimeout must be less than monitoring.interval" }}{{ end -}}
{{- end -}}
{{- end }}
