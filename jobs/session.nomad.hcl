# Copyright (c) The Buntime Authors
# SPDX-License-Identifier: MPL-2.0

# One session. The front-end parses this file once through Nomad and registers
# a copy for each session, in which it replaces, wherever they stand:
#
#   ses-SESSION   the session's id as a host label: ses-4f0c…
#   ses_SESSION   the session's id: ses_4f0c…
#   DOMAIN        the preview domain without its port
#
# gives the copies of later lives an id of their own (ses-4f0c…-2, -3, and so on),
# and sets the task's resources and config.session from the session's limits.
# Constraints, datacenters, node pools and more tags can be added at will.

job "ses-SESSION" {
  type        = "batch"
  datacenters = ["*"]

  # What the reaper goes by. Nothing secret: anyone who may list jobs reads it.
  meta {
    session = "ses_SESSION"
  }

  group "session" {
    count = 1

    # A sandbox that has died is never started again in place, nor elsewhere by
    # Nomad: the front-end alone decides where a session lives.
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    disconnect {
      lost_after = "12h"
      replace    = false
      reconcile  = "keep_original"
    }

    # The workspace lies elsewhere. 10 MB is the least that Nomad takes, and the
    # (disabled) logs below have to fit in.
    ephemeral_disk {
      size    = 10
      migrate = false
    }

    network {
      mode = "host"
      port "api" {}
      port "preview" {}
    }

    # Any proxy that knows Consul finds previews here. No check: a session's
    # application need not run, and a frozen one does not answer.
    service {
      provider = "consul"
      name     = "ses-SESSION"
      port     = "preview"
      tags = [
        "buntime-preview",
        "traefik.enable=true",
        "traefik.http.routers.ses-SESSION.rule=Host(`ses-SESSION.DOMAIN`) || HostRegexp(`^[0-9]+-ses-SESSION\\.`)",
      ]
    }

    task "session" {
      driver       = "bun"
      kill_timeout = "30s"

      # The output of executions has a journal of its own.
      logs {
        disabled      = true
        max_files     = 1
        max_file_size = 1
      }

      # For gVisor's kernel: isolation = "gvisor" in config, and here
      #
      #   constraint {
      #     attribute = "${attr.driver.bun.isolation.gvisor}"
      #     operator  = "is_set"
      #   }
      config {
        session {
          id         = "ses_SESSION"
          epoch      = 0
          expires_at = ""
        }
      }
    }
  }
}
