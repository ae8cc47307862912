# Copyright (c) The Buntime Authors
# SPDX-License-Identifier: MPL-2.0

# The namespace of the sessions' jobs. Who may register jobs may run programs on the
# nodes; here that is programs in sandboxes, and nothing else: a front-end's token is no
# way to raw_exec.

name        = "buntime"
description = "Sessions of Buntime"

capabilities {
  enabled_task_drivers = ["bun"]
}
