// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// From linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaFilter          = 25
	ctaFilterOrigFlags = 1
	ctaFilterIPSrc     = 1 << 0
	ctaIPV4Src         = nl.CTA_IP_V4_SRC
)

// forgetConnections deletes the host's tracked connections that the sandbox
// with this address opened. The kernel is asked for these only (from Linux 5.8,
// an older one lists all): the whole table, which the library's own delete
// would read for each sandbox, may have hundreds of thousands.
func forgetConnections(source netip.Addr) error {
	tuples, err := connectionsFrom(source)
	if err != nil {
		return fmt.Errorf("list connections of %s: %w", source, err)
	}
	for _, tuple := range tuples {
		req := conntrackRequest(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		req.AddData(nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, tuple))
		if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete connection of %s: %w", source, err)
		}
	}
	return nil
}

// connectionsFrom lists the original tuples of source's connections.
func connectionsFrom(source netip.Addr) ([][]byte, error) {
	req := conntrackRequest(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, nil)
	tuple.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil).AddRtAttr(ctaIPV4Src, source.AsSlice())
	req.AddData(tuple)
	filter := nl.NewRtAttr(ctaFilter|unix.NLA_F_NESTED, nil)
	filter.AddRtAttr(ctaFilterOrigFlags, nl.Uint32Attr(ctaFilterIPSrc))
	req.AddData(filter)
	answers, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, err
	}
	want := source.AsSlice()
	var tuples [][]byte
	for _, answer := range answers {
		if len(answer) < nl.SizeofNfgenmsg {
			continue
		}
		tuple := attribute(answer[nl.SizeofNfgenmsg:], nl.CTA_TUPLE_ORIG)
		if bytes.Equal(attribute(attribute(tuple, nl.CTA_TUPLE_IP), ctaIPV4Src), want) {
			tuples = append(tuples, tuple)
		}
	}
	return tuples, nil
}

func conntrackRequest(command, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|command, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	return req
}

// attribute returns the first netlink attribute of a kind in b, or nil.
func attribute(b []byte, kind uint16) []byte {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&nl.NLA_TYPE_MASK == kind {
			return b[unix.SizeofRtAttr:size]
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}
