// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"fmt"
	"net/url"
	"os/exec"
	"strconv"

	"github.com/spf13/cobra"
)

func (a *app) newOpen() *cobra.Command {
	var printOnly bool
	cmd := &cobra.Command{
		Use:   "open SESSION [PORT]",
		Short: "Print the preview's address, and open it in a browser",
		Example: `  buntime open ses_abc
  buntime open ses_abc 3000 --print`,
		Args: usage(cobra.RangeArgs(1, 2)), ValidArgsFunction: a.completeSession(false, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			port := 0
			if len(args) == 2 {
				var err error
				if port, err = strconv.Atoi(args[1]); err != nil || port < 1 || port > 65535 {
					return usagef("%q is no port", args[1])
				}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			s, err := c.Info(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			target, err := preview(s.PreviewURL, port)
			if err != nil {
				return err
			}
			if err := a.print(map[string]string{"url": target}, func() error { return a.say("%s", target) }); err != nil {
				return err
			}
			if _, ok := terminal(a.Out); printOnly || !ok {
				return nil
			}
			for _, opener := range []string{"xdg-open", "open"} {
				if program, err := exec.LookPath(opener); err == nil {
					if err := exec.CommandContext(cmd.Context(), program, target).Run(); err != nil {
						return fmt.Errorf("open the browser: %w; --print only prints", err)
					}
					return nil
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&printOnly, "print", false, "only print it, as is done where standard output is no terminal")
	return cmd
}

// preview is the address of a port, 0 for the usual one.
func preview(address string, port int) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", fmt.Errorf("the preview's address %q is none of the web's", address)
	}
	if port != 0 && port != 8080 {
		u.Host = strconv.Itoa(port) + "-" + u.Host
	}
	return u.String(), nil
}
