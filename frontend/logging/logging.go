// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package logging has log lines say which request they are about, wherever the work for
// it is done.
package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
)

// Config says how the log is written.
type Config struct {
	// Format is text or json. Default text.
	Format string `json:"format"`
	// Level is debug, info, warn or error. Default info.
	Level string `json:"level"`
}

// New makes a log.
func New(c Config, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if c.Level != "" {
		if err := level.UnmarshalText([]byte(c.Level)); err != nil {
			return nil, fmt.Errorf("log.level is debug, info, warn or error, not %q", c.Level)
		}
	}
	options := &slog.HandlerOptions{Level: level}
	switch c.Format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("log.format is text or json, not %q", c.Format)
}

type key struct{}

// With is a context of the work for a request.
func With(ctx context.Context, request string) context.Context {
	return context.WithValue(ctx, key{}, request)
}

// Request is the id of the request that a context's work is for, "" if it is for none.
func Request(ctx context.Context) string {
	id, _ := ctx.Value(key{}).(string)
	return id
}

// Handler adds to each line the request that its context's work is for.
func Handler(h slog.Handler) slog.Handler { return handler{h} }

type handler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if id := Request(ctx); id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String("request", id))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }
