// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package frontend is the domain of the front-end: sessions, who owns them,
// what a plan allows, and the service that creates, finds and ends them.
//
// It knows neither HTTP nor Consul nor Nomad. What it needs of them are three
// small interfaces (Store, Scheduler, Node), each implemented by the package
// below that is named for what it speaks to. A Service holds nothing that a
// restart would lose: the truth is in the Store.
package frontend
