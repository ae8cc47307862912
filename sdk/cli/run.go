// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	buntime "github.com/buntime/buntime/sdk/go"
)

// run is one buntime run.
type run struct {
	*app
	client  *buntime.Client
	dir     string // of here, that is uploaded; or ""
	keep    bool
	install bool
	flags   executeFlags
	session sessionFlags
}

func (a *app) newRun() *cobra.Command {
	r := run{app: a}
	noInstall := false
	cmd := &cobra.Command{
		Use:   "run FILE [ARGUMENT...]",
		Short: "Run a script in a session of its own",
		Long: `Run a script in a session of its own, which ends with it. The output comes as it
is printed, and the exit code is the script's. A script that stays as a server
has its preview named, and is followed until Ctrl-C.

With --dir the script's whole folder goes along, without what .gitignore names
and without node_modules and .git; the packages of its package.json are
installed first. - is a script on standard input.

Ctrl-C kills the script and ends the session, unless --keep lets that live on.`,
		Example: `  buntime run hello.ts
  buntime run --dir . src/main.ts --verbose
  buntime run --timeout 5m --env TOKEN report.ts >report.txt
  echo 'console.log(6 * 7)' | buntime run -`,
		Args:        atLeast(1),
		Annotations: map[string]string{passesCode: "yes"},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r.install = !noInstall
			if r.client, err = a.client(); err != nil {
				return err
			}
			return r.run(cmd.Context(), args[0], args[1:])
		},
	}
	r.flags.register(cmd)
	r.session.register(cmd)
	f := cmd.Flags()
	f.SetInterspersed(false) // what stands behind FILE is the script's
	f.StringVar(&r.dir, "dir", "", "a folder to take along, in which FILE lies")
	f.BoolVar(&r.keep, "keep", false, "let the session live on, and print its id")
	f.BoolVar(&noInstall, "no-install", false, "do not install the packages of package.json")
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

// program is what to run, and what is uploaded first.
type program struct {
	code string // with - as FILE
	path string // in the workspace
	pack *packed
}

func (r *run) run(ctx context.Context, file string, args []string) (err error) {
	request, err := r.executeRequest(r.flags)
	if err != nil {
		return err
	}
	create, err := r.session.request()
	if err != nil {
		return err
	}
	p, err := r.program(file, args)
	if err != nil {
		return err
	}
	defer p.pack.close()
	made, err := r.client.Create(ctx, create)
	if err != nil {
		return err
	}
	request.SessionID = made.SessionID
	defer func() { err = r.end(ctx, made.SessionID, err) }()
	if err := r.prepare(ctx, made.SessionID, p); err != nil {
		return err
	}
	if p.code != "" {
		request.Code = p.code
	} else {
		words := append([]string{"bun", "run", "--install=fallback", "./" + p.path}, args...)
		if r.flags.input {
			return r.attach(ctx, r.client, made.SessionID, buntime.TerminalRequest{Command: words, Pipes: true, Env: request.Env})
		}
		request.Code = starter(words)
	}
	last, err := r.execute(ctx, r.client, request)
	if err != nil || !last.Result.Background {
		return err
	}
	fmt.Fprintf(r.Err, "buntime: it serves %s; Ctrl-C ends it\n", clean(made.PreviewURL))
	last, err = r.follow(r.client.Output(ctx, made.SessionID, last.ExecutionID, last.LastID, "end"))
	if ctx.Err() != nil {
		r.kill(ctx, r.client, made.SessionID, last.ExecutionID)
		return context.Cause(ctx)
	}
	if err != nil {
		return r.outOfMemory(err)
	}
	return r.result(last.Result)
}

// starter is code that runs a program in a process of its own, with arguments, and ends
// as that ends. It is code, and not a command, so that what comes to listen has it
// answered and stays, as a server.
func starter(words []string) string {
	text, _ := json.Marshal(words) // strings
	return `import { constants } from "node:os";
const child = Bun.spawn(` + string(text) + `, { stdio: ["ignore", "inherit", "inherit"] });
child.exited.then((code) => process.exit(child.signalCode ? 128 + constants.signals[child.signalCode] : code));
`
}

// program reads what is to run.
func (r *run) program(file string, args []string) (p program, err error) {
	if file == "-" {
		if r.dir != "" || len(args) > 0 || r.flags.input {
			return p, usagef("a script on standard input takes neither --dir nor -i nor arguments")
		}
		text, err := r.readFile(file)
		if err == nil && len(bytes.TrimSpace(text)) == 0 {
			err = errors.New("no script came on standard input")
		}
		return program{code: string(text)}, err
	}
	st, err := os.Stat(file)
	if err != nil {
		return p, fmt.Errorf("run: %w", err)
	}
	if st.IsDir() {
		return p, usagef("%s is a folder; name the script in it, with --dir %s", file, file)
	}
	if r.dir == "" {
		p.path = filepath.Base(file)
		p.pack, err = packFile(file, p.path)
		return p, err
	}
	if p.path, err = below(r.dir, file); err != nil {
		return p, err
	}
	p.pack, err = packProject(r.dir)
	return p, err
}

// below is where file is in dir, with slashes.
func below(dir, file string) (string, error) {
	absDir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	absFile, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(absDir, absFile)
	if err != nil || !filepath.IsLocal(rel) {
		return "", usagef("%s is not in %s", file, dir)
	}
	return filepath.ToSlash(rel), nil
}

// prepare uploads, and installs packages.
func (r *run) prepare(ctx context.Context, session string, p program) error {
	if p.pack == nil {
		return nil
	}
	if _, err := r.upload(ctx, r.client, session, ".", p.pack); err != nil {
		return err
	}
	if !r.install || r.dir == "" || !hasPackages(filepath.Join(r.dir, "package.json")) {
		return nil
	}
	end := r.working("Installing packages")
	defer end()
	out, err := r.client.Execute(ctx, buntime.ExecuteRequest{SessionID: session, Command: "bun install"})
	if err != nil {
		return fmt.Errorf("install packages: %w", err)
	}
	if out.ExitCode != 0 {
		end()
		fmt.Fprint(r.Err, out.Stdout, out.Stderr)
		return fmt.Errorf("install packages: bun install has ended with exit code %d; --no-install goes on without", out.ExitCode)
	}
	return nil
}

// hasPackages says whether a package.json names packages to install.
func hasPackages(file string) bool {
	text, err := os.ReadFile(file)
	var named struct{ Dependencies, DevDependencies, OptionalDependencies map[string]any }
	return err == nil && json.Unmarshal(text, &named) == nil && len(named.Dependencies)+len(named.DevDependencies)+len(named.OptionalDependencies) > 0
}

// end ends the session, also after an interrupt.
func (r *run) end(ctx context.Context, session string, err error) error {
	if r.keep {
		fmt.Fprintln(r.Err, session)
		return err
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), cleanUp, errors.New("no answer in time"))
	defer cancel()
	if derr := r.client.Delete(ctx, session); derr != nil && !buntime.Is(derr, "session_not_found") {
		fmt.Fprintf(r.Err, "buntime: the session %s lives on until its time is over: %s\n", session, clean(derr.Error()))
	}
	return err
}

// baseName is the last part of a path in a session, which is no way out of a folder.
func baseName(p string) (string, error) {
	name := path.Base(strings.TrimRight(p, "/"))
	if !filepath.IsLocal(name) || name == "." {
		return "", usagef("%q names no file", p)
	}
	return name, nil
}
