# Copyright (c) The Buntime Authors
# SPDX-License-Identifier: MPL-2.0

# Front-ends as a job of Nomad's: two, behind whatever sends requests to healthy
# services of Consul's. For operators to start from:
#
#   nomad var put nomad/jobs/buntime-frontend node_secret=… nomad_token=… consul_token=…
#   nomad job run -var preview_domain=preview.example.net -var base_url=https://api.example.com jobs/frontend.nomad.hcl
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

      check {
        type     = "http"
        path     = "/readyz"
        interval = "5s"
        timeout  = "3s"
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
            ${var.more}
            {{- with nomadVar "nomad/jobs/buntime-frontend" }}
            "nomad": {"address": "${var.nomad}"{{ with .nomad_token }}, "token": "{{ . }}"{{ end }}},
            "consul": {"address": "${var.consul}"{{ with .consul_token }}, "token": "{{ . }}"{{ end }}},
            "node_secret": "{{ .node_secret }}"
            {{- end }}
          }
        EOF
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
