# Copyright (c) The Buntime Authors
# SPDX-License-Identifier: MPL-2.0

# Configuration of a Nomad client that runs sandboxes, for /etc/nomad.d/. What a session needs
# of Nomad itself comes first; then every setting of the plugin is here, with its default after
# "#": take that away to set it. An empty text is the default, too. A setting that is not
# known is an error.
#
# What is marked as secret can be in a file of its own instead: node_secret_file and so on name it.
# Keep this file readable by root only otherwise.

plugin_dir = "/opt/buntime/plugins"

client {
  enabled = true

  # Two ports for each session: 12,001 ports are 6,000 sessions.
  min_dynamic_port = 20000
  max_dynamic_port = 32000

  # Beyond this many allocations the directories and logs of ended ones go at once. Default 50.
  gc_max_allocs = 2000

  # Caps every job's kill_timeout; default 30 s. A session that is told to stop has it to go to
  # the store.
  max_kill_timeout = "120s"

  options {
    # Where no metadata service answers, these slow the agent's start or make it fail.
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
}

# The name is that of the plugin's file.
plugin "nomad-driver-bun" {
  config {
    # Host directory or image file of the sandboxes' root. Without it Nomad does not detect the
    # driver on the node.
    rootfs = "/opt/buntime/rootfs"

    # Path of Bun inside the root.
    # bun = "/usr/local/bin/bun"

    # Host path of the sandboxes' first process; buntime-restorer lies beside it. Default:
    # ../libexec/buntime-init beside the plugin.
    # init = ""

    # What must outlive the plugin, and the workspaces. Put it on a disk with room; keep the path
    # short, as there are unix sockets below, whose names end at 107 bytes.
    # state_dir = "/var/lib/buntime"

    # Host path of gVisor's runsc. Default: the one in the PATH, if it is there.
    # runsc = ""

    # Secret. What the tokens between front-ends and nodes derive from: at least 16 characters, the
    # same on all. Default: the environment's BUNTIME_NODE_SECRET. Without it the node runs ordinary
    # Bun jobs only.
    # node_secret = ""

    # Secret. The one before, whose tokens are taken as well while it is being changed.
    # old_node_secret = ""

    # TLS on the ports of sessions, for who shows a certificate of ca_file for frontend.buntime
    # (or, on the preview's, proxy.buntime). One's own is for node.buntime. All three or none.
    # Read anew when they change.
    tls {
      # ca_file = ""
      # cert_file = ""
      # key_file = ""
    }

    # Whose requests the preview ports take: "any", so that proxies find previews in Consul's
    # catalog, or "front-end".
    # preview_access = "any"

    # MB that runners may hold that wait for code, beside one in each session. Default: 5 % of the
    # node's memory.
    # runner_memory = 1024

    # Where Prometheus reads the node's metrics.
    metrics {
      # An IP address and a port, such as "10.0.0.7:9464". Without it there are none.
      # address = ""

      # Secret. What Prometheus shows as its authorization: at least 16 characters. On loopback there
      # need be none.
      # token = ""
    }

    # Where the node notes which allocation carries a session.
    consul {
      # Default: Consul's usual environment variables, and its own defaults.
      # address = ""

      # Secret. A file of its own (token_file) is read anew when it changes.
      # token = ""

      # TLS: the authority of its certificate, one's own and its key where it asks for one, and
      # the name that its certificate is for if that is not the address's host. Read anew when
      # they change.
      # ca_file = ""
      # cert_file = ""
      # key_file = ""
      # tls_server_name = ""

      # Folder in KV; the same as the front-ends'.
      # prefix = "buntime"
    }

    network {
      # IPv4 range from /15 to /30, two addresses for each sandbox. A second plugin on one machine
      # needs another.
      # pool = "198.18.0.0/15"

      # Closed to sandboxes, besides the private and special ranges: public addresses of your own
      # machines.
      # deny = []

      # Exceptions from the private and special ranges, such as a mirror of packages. The node
      # itself, other sandboxes, metadata services and deny have none.
      # allow = []

      # Name servers that are asked for sandboxes, with or without a port. Default: those of
      # /etc/resolv.conf.
      # resolvers = []

      # Connections that a sandbox may open in a second, at once before that counts, and have open.
      # conn_rate = 100
      # conn_burst = 500
      # conn_max = 1024
    }

    # Host ids of users and groups that sandboxes run as, 65,536 for each; nobody else may use them.
    # Change them on a drained node.
    ids {
      # first = 268435456
      # last = 2147352575
    }

    session {
      # How long nobody uses a session until its processes stand still; "0" is never.
      # idle_after = "5m"

      # The same until its workspace goes to the store and its allocation ends.
      # sleep_after = "30m"

      # How often a workspace that has changed goes to the store meanwhile: what the death of a node
      # costs at most.
      # checkpoint_every = "1m"
    }

    # Where snapshots go; the same as the front-ends'.
    store {
      # A directory; with more than one node, one that all nodes and front-ends share. Default:
      # snapshots below state_dir.
      # dir = ""

      # A container of OpenStack Swift instead.
      # swift {
        # auth_url = "https://keystone.example.net:5000/v3"
        # container = "buntime"

        # user = ""

        # Secret.
        # key = ""
        # domain = ""
        # tenant = ""
        # tenant_domain = ""
        # region = ""

        # An application credential instead of user and key. The second is secret.
        # credential_id = ""
        # credential_secret = ""
      # }
    }

    # For tasks whose own config does not say otherwise.
    defaults {
      # Processes and threads: some 60 Bun processes.
      # pids_max = 1024

      # MB of workspace; this size is also kept made in advance.
      # disk = 1024

      # Open files of a process.
      # files_max = 16384
    }
  }
}
