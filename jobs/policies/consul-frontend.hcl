# Copyright (c) The Buntime Authors
# SPDX-License-Identifier: MPL-2.0

# What front-ends may do at Consul. "buntime/" is their consul.prefix.

# Records, keys, receipts, and what nodes have written when a session goes.
key_prefix "buntime/" {
  policy = "write"
}

# The election: a check of its own at the agent, and a session that hangs on it. Narrow
# the last two to the nodes with front-ends, as in session "frontend-1", where you know them.
service "buntime-election" {
  policy = "write"
}
session_prefix "" {
  policy = "write"
}
node_prefix "" {
  policy = "read"
}
