// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/buntime/buntime/frontend"
)

// Account is the answer of GET /account.
type Account struct {
	Account  string        `json:"account"`
	Plan     string        `json:"plan" enum:"free,paid,enterprise"`
	Operator bool          `json:"operator" doc:"Whether the key is of who runs the front-ends."`
	Limits   frontend.Plan `json:"limits" doc:"What the key allows."`
}

func (s *Server) accountRoutes(api huma.API) {
	add(api, huma.Operation{
		OperationID: "getAccount", Method: http.MethodGet, Path: "/account", Tags: []string{"account"},
		Summary: "Look at the account that the key belongs to, and what it allows",
	}, s.account)
}

type accountOutput struct{ Body Account }

func (s *Server) account(ctx context.Context, _ *struct{}) (*accountOutput, error) {
	key := caller(ctx)
	return &accountOutput{Account{key.Account, key.Plan, key.Operator, key.Allowed}}, nil
}
