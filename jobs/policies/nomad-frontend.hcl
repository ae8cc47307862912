# Copyright (c) The Buntime Authors
# SPDX-License-Identifier: MPL-2.0

# What front-ends may do at Nomad: register and purge the jobs of sessions in a namespace
# of theirs, which allows no driver but "bun" (nomad-namespace.hcl), and look at nodes.

namespace "buntime" {
  capabilities = ["list-jobs", "read-job", "parse-job", "register-job", "purge-job"]
}

node {
  policy = "read"
}
