# Copyright (c) The Buntime Authors
# SPDX-License-Identifier: MPL-2.0

# What a proxy may see of Consul: where the front-ends are. For the agent's DNS token, or
# for a proxy that reads the catalog. One that takes previews straight from the nodes
# needs service_prefix "ses-", too.

service "buntime-frontend" {
  policy = "read"
}
node_prefix "" {
  policy = "read"
}
