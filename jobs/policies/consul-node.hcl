# Copyright (c) The Buntime Authors
# SPDX-License-Identifier: MPL-2.0

# What the plugin on a node may do at Consul. "buntime/" is its consul.prefix. It reads
# no API keys and no receipts, and changes no record.

# Who carries a session, and where its snapshots are.
key_prefix "buntime/claims/" {
  policy = "write"
}
key_prefix "buntime/rests/" {
  policy = "write"
}

# What snapshots are sealed with.
key_prefix "buntime/keys/" {
  policy = "write"
}

# It removes those of slots that have ended.
key_prefix "buntime/slots/" {
  policy = "write"
}

# Until when a session lives, and whether it still does.
key_prefix "buntime/sessions/" {
  policy = "read"
}
