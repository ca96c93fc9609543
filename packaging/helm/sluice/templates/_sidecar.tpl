{{- /*
What a pod needs to have an agent of its own, for charts that depend on this one with
form: sidecar. packaging/kubernetes/overlays/sidecar has the reasons.

  spec:
    securityContext: {fsGroup: 65532}
    initContainers: {{- include "sluice.sidecar" .Subcharts.sluice | nindent 8 }}
    volumes: {{- include "sluice.sidecarVolumes" .Subcharts.sluice | nindent 8 }}
*/ -}}
{{- define "sluice.sidecar" -}}
- name: sluice
  image: {{ include "sluice.image" . }}
  {{- with .Values.image.pullPolicy }}
  imagePullPolicy: {{ . }}
  {{- end }}
  restartPolicy: Always
  args: [run, --config, /etc/sluice/config/sluice.yaml]
  env:
    - name: POD_NAME
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    - name: POD_NAMESPACE
      valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
    - name: NODE_NAME
      valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  startupProbe:
    exec: {command: [/usr/bin/sluice, doctor, --quick]}
    periodSeconds: 1
    timeoutSeconds: 5
    failureThreshold: 60
  livenessProbe:
    exec: {command: [/usr/bin/sluice, doctor, --quick]}
    periodSeconds: 30
    timeoutSeconds: 5
    failureThreshold: 3
  resources: {{- toYaml .Values.sidecar.resources | nindent 4 }}
  securityContext:
    runAsUser: 65532
    runAsGroup: 65532
    runAsNonRoot: true
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
    seccompProfile:
      type: RuntimeDefault
  volumeMounts:
    - {name: sluice-config, mountPath: /etc/sluice/config, readOnly: true}
    - {name: sluice-keys, mountPath: /etc/sluice/keys, readOnly: true}
    - {name: sluice-spool, mountPath: /var/lib/sluice}
{{- end }}

{{- define "sluice.sidecarVolumes" -}}
- name: sluice-config
  configMap: {name: {{ include "sluice.sidecarName" . }}}
- name: sluice-keys
  secret: {secretName: {{ .Values.existingSecret }}, defaultMode: 0440}
- name: sluice-spool
  emptyDir: {sizeLimit: {{ .Values.sidecar.spool.sizeLimit }}}
{{- end }}

{{- define "sluice.sidecarName" -}}
{{ .Release.Name | trunc 55 | trimSuffix "-" }}-sidecar
{{- end }}
