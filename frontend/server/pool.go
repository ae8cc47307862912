// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package server

import (
	"errors"
	"time"

	"github.com/buntime/buntime/frontend"
)

// PoolConfig says how many slots are kept ready.
type PoolConfig struct {
	// Off is for none at all.
	Off bool `json:"off"`
	// Min is how many slots of the default shape there are at least. Default 4.
	Min *int `json:"min"`
	// Max is how many there are at most of each shape. Default 50.
	Max int `json:"max"`
	// MaxAge is how old a slot becomes. Default 1 h.
	MaxAge Duration `json:"max_age"`
	// Refills is how many slots are made at a time. Default 4.
	Refills int `json:"refills"`
	// NodeMemory is how much memory, in MB, slots may take of each node. Default 1024.
	NodeMemory int `json:"node_memory"`
	// Starts is how many jobs are started at a time of creates that found no slot.
	// Default 16.
	Starts int `json:"starts"`
}

func (p *PoolConfig) defaults() {
	if p.Min == nil {
		p.Min = new(4)
	}
	def(&p.Max, max(50, *p.Min))
	def(&p.MaxAge, Duration(time.Hour))
	def(&p.Refills, 4)
	def(&p.NodeMemory, 1024)
	def(&p.Starts, frontend.DefaultStarts)
}

func (p *PoolConfig) check() error {
	if *p.Min < 0 || p.Max < *p.Min || p.Refills < 1 || p.NodeMemory < 1 || p.Starts < 1 {
		return errors.New("pool: min must not be negative, max not less than min, and refills, node_memory and starts positive")
	}
	return nil
}

func (p *PoolConfig) settings() frontend.PoolSettings {
	if p.Off {
		return frontend.PoolSettings{}
	}
	return frontend.PoolSettings{
		Min: *p.Min, Max: p.Max, MaxAge: time.Duration(p.MaxAge), Refills: p.Refills, NodeMemory: p.NodeMemory,
	}
}
