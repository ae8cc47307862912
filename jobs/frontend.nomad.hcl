# Copyright (c) The Buntime Authors
# SPDX-License-Identifier: MPL-2.0

# Front-ends as a job of Nomad's: two, behind whatever sends requests to healthy
# services of Consul's. For operators to start from:
#
#   nomad var put nomad/jobs/buntime-frontend node_secret=… nomad_token=… consul_token=…
#   nomad job run -var preview_domain=preview.example.net -var base_url=https://api.example.com jobs/frontend.nomad.hcl
#
# The other items of the variable, all in PEM and all optional, are for clusters with TLS
# (docs/cluster.md): cluster_ca, of Nomad's and Consul's certificates; consul_cert and
# consul_key, where Consul asks its clients for one; node_ca, node_cert and node_key, for
# TLS with the nodes; tls_cert and tls_key, of what listens (and -var tls=true). New ones,
# and new tokens, are taken up without a restart.
#
# The driver is exec, or raw_exec where that is all there is. The binary is on the
# nodes, or comes from where `artifact` says.

variable "base_url" {
  type        = string
  description = "Where clients find the API."
}

variable "preview_domain" {
  type        = string
  description = "Previews are at ses-….<preview_domain>."
}

variable "driver" {
  type    = string
  default = "exec"
}

variable "binary" {
  type    = string
  default = "/opt/buntime/bin/buntime-frontend"
}

variable "count" {
  type    = number
  default = 2
}

variable "consul" {
  type    = string
  default = "http://127.0.0.1:8500"
}

variable "nomad" {
  type    = string
  default = "http://127.0.0.1:4646"
}

variable "nomad_namespace" {
  type        = string
  default     = "default"
  description = "Where the jobs of sessions are."
}

variable "tls" {
  type        = bool
  default     = false
  description = "Whether the front-ends speak HTTPS, with tls_cert and tls_key."
}

variable "tags" {
  type        = list(string)
  default     = []
  description = "Of the service, for a proxy that goes by them."
}

variable "more" {
  type        = string
  default     = ""
  description = "More settings as they stand in the configuration file, with a comma at the end."
}

job "buntime-frontend" {
  type        = "service"
  datacenters = ["*"]
  priority    = 80 # sessions wait for it

  # One after the other, and none while another has not been healthy for a while: the
  # proxy has time to notice.
  update {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "5s"
    healthy_deadline = "1m"
    auto_revert      = true
  }

  group "frontend" {
    count = var.count

    network {
      port "http" {}
    }

    service {
      name = "buntime-frontend"
      port = "http"
      tags = var.tags

      check {
        type            = "http"
        protocol        = var.tls ? "https" : "http"
        tls_skip_verify = true # it is asked by its address, which is not what the certificate is for
        path            = "/readyz"
        interval        = "5s"
        timeout         = "3s"
      }
    }

    # Out of the proxy's list first, then the end: Nomad waits here, the front-end itself need not.
    shutdown_delay = "5s"

    task "frontend" {
      driver       = var.driver
      kill_signal  = "SIGTERM"
      kill_timeout = "25s"

      config {
        command = var.binary
        args    = ["-config", "${NOMAD_SECRETS_DIR}/frontend.json"]
      }

      template {
        destination = "secrets/frontend.json"
        change_mode = "restart"
        data        = <<-EOF
          {
            "listen": "{{ env "NOMAD_ADDR_http" }}",
            "base_url": "${var.base_url}",
            "preview_domain": "${var.preview_domain}",
            "shutdown_delay": "0s",
            "shutdown_timeout": "15s",
            {{- $dir := env "NOMAD_SECRETS_DIR" }}
            ${var.more}
            {{- with nomadVar "nomad/jobs/buntime-frontend" }}
            {{- if .tls_cert.Value }}
            "tls": {"cert_file": "{{ $dir }}/tls_cert", "key_file": "{{ $dir }}/tls_key"},
            {{- end }}
            {{- if .node_cert.Value }}
            "node_tls": {"ca_file": "{{ $dir }}/node_ca", "cert_file": "{{ $dir }}/node_cert", "key_file": "{{ $dir }}/node_key"},
            {{- end }}
            "nomad": {
              {{ if .cluster_ca.Value }}"ca_file": "{{ $dir }}/cluster_ca",{{ end }}
              {{ if .nomad_token.Value }}"token_file": "{{ $dir }}/nomad_token",{{ end }}
              "namespace": "${var.nomad_namespace}", "address": "${var.nomad}"
            },
            "consul": {
              {{ if .cluster_ca.Value }}"ca_file": "{{ $dir }}/cluster_ca",{{ end }}
              {{ if .consul_cert.Value }}"cert_file": "{{ $dir }}/consul_cert", "key_file": "{{ $dir }}/consul_key",{{ end }}
              {{ if .consul_token.Value }}"token_file": "{{ $dir }}/consul_token",{{ end }}
              "address": "${var.consul}"
            },
            "node_secret": "{{ .node_secret }}"
            {{- end }}
          }
        EOF
      }

      # The front-end looks at these files by itself.
      dynamic "template" {
        for_each = [
          "nomad_token", "consul_token", "cluster_ca", "consul_cert", "consul_key",
          "node_ca", "node_cert", "node_key", "tls_cert", "tls_key",
        ]
        content {
          destination = "secrets/${template.value}"
          change_mode = "noop"
          data        = "{{ with nomadVar \"nomad/jobs/buntime-frontend\" }}{{ with .${template.value} }}{{ . }}{{ end }}{{ end }}"
        }
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
