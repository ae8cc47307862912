// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// TestModuleIsTypeScript: what only TypeScript has, and what only a module has.
func TestModuleIsTypeScript(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	equal(t, "stdout", s.print(`
		enum Color { Red = "red", Blue = "blue" }
		interface Box<T> { value: T }
		abstract class Shape<T extends string> {
			constructor(protected readonly name: T) {}
			abstract show(): string;
		}
		class Dot extends Shape<"dot"> { override show() { return this.name satisfies string } }
		namespace Space { export const n = 1 }
		const box = { value: 1 } as Box<number>;
		const sure = (5 as unknown as number)!;
		console.log(Color.Blue, box.value, new Dot("dot").show(), Space.n, sure);
		console.log(await Promise.resolve(7), await new Response("web").text());
		export const exported = 1;
	`), "blue 1 dot 1 5\n7 web\n")
}

// TestModuleMeta: the code is a file that lies in the working directory.
func TestModuleMeta(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	var got struct {
		Main             bool
		Dir, Path, File  string
		URL, Bun, Argv1  string
		Dirname, Require string
	}
	out := s.print(`
		console.log(JSON.stringify({
			Main: import.meta.main, Dir: import.meta.dir, Path: import.meta.path, File: import.meta.file,
			URL: import.meta.url, Bun: Bun.main, Argv1: process.argv[1],
			Dirname: import.meta.dirname, Require: typeof import.meta.require,
		}));
	`)
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	equal(t, "main", got.Main, true)
	equal(t, "dir", got.Dir, "/workspace")
	equal(t, "dirname", got.Dirname, "/workspace")
	equal(t, "path", got.Path, "/workspace/"+got.File)
	equal(t, "url", got.URL, "file://"+got.Path)
	equal(t, "Bun.main", got.Bun, got.Path)
	equal(t, "argv[1]", got.Argv1, got.Path)
	equal(t, "require", got.Require, "function")
	equal(t, "files left by it", names(s.list()), []string{})
}

// TestModuleImports: of workspace files, however they came to be there.
func TestModuleImports(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	t.Run("from the same request", func(t *testing.T) {
		r := s.in(t).execute(M{
			"files": []M{{"path": "utils.ts", "content": `export const add = (a: number, b: number) => a + b;`}},
			"code":  `import { add } from "./utils"; console.log(add(2, 3));`,
		})
		equal(t, "stdout", s.in(t).well(r), "5\n")
	})
	t.Run("written just before", func(t *testing.T) {
		s := s.in(t)
		for _, value := range []string{"one", "two", "three"} {
			s.write("lib/value.ts", `export default `+quote(value)+`;`)
			equal(t, "stdout", s.print(`import value from "./lib/value.ts"; console.log(value)`), value+"\n")
		}
	})
	t.Run("by an earlier execution", func(t *testing.T) {
		s := s.in(t)
		for _, value := range []string{"1", "2"} {
			s.print(`await Bun.write("made.ts", "export const made = ` + value + `")`)
			equal(t, "stdout", s.print(`import { made } from "/workspace/made"; console.log(made)`), value+"\n")
		}
	})
	t.Run("by itself", func(t *testing.T) {
		equal(t, "stdout", s.in(t).print(`
			await Bun.write("later.ts", "export const x = 'later'");
			console.log((await import("./later")).x);
		`), "later\n")
	})
	t.Run("kinds", func(t *testing.T) {
		s := s.in(t)
		s.write("data.json", `{"a":[1,2]}`)
		s.write("note.txt", "a note")
		s.write("old.cjs", `module.exports = { old: "cjs", dir: __dirname }`)
		s.write("view.tsx", `export const view = (props: { n: number }): string => String(props.n)`)
		equal(t, "stdout", s.print(`
			import data from "./data.json";
			import note from "./note.txt" with { type: "text" };
			import { old, dir } from "./old.cjs";
			import { view } from "./view";
			import { join } from "node:path";
			import { Database } from "bun:sqlite";
			const row = new Database(":memory:").query("select 1 + 1 as two").get();
			console.log(data.a[1], note, old, dir, view({ n: 4 }), join("a", "b"), JSON.stringify(row));
		`), "2 a note cjs /workspace 4 a/b {\"two\":2}\n")
	})
	t.Run("missing", func(t *testing.T) {
		r := s.in(t).code(`import x from "./nowhere"; console.log(x)`)
		equal(t, "exitCode", r.ExitCode, 1)
		contains(t, "stderr", r.Stderr, "./nowhere")
	})
}

// TestModuleConfiguration: files that Bun reads when it starts count as they
// are at the time of the request, however early the process was started.
func TestModuleConfiguration(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.print(`1`)
	for _, value := range []string{"first", "second"} {
		s.write(".env", "FROM_DOTENV="+value+"\n")
		equal(t, ".env", s.print(`console.log(process.env.FROM_DOTENV)`), value+"\n")
	}
	for _, dir := range []string{"a", "b"} {
		s.write(dir+"/x.ts", `export const x = `+quote(dir))
		s.write("tsconfig.json", `{"compilerOptions":{"paths":{"@lib/*":["./`+dir+`/*"]}}}`)
		equal(t, "tsconfig.json", s.print(`import { x } from "@lib/x"; console.log(x)`), dir+"\n")
	}
	s.write("setup.ts", `globalThis.prepared = "by bunfig";`)
	s.write("bunfig.toml", "preload = [\"./setup.ts\"]\n")
	equal(t, "bunfig.toml", s.print(`console.log(globalThis.prepared)`), "by bunfig\n")
	s.write("package.json", `{"name":"app","imports":{"#own":"./a/x.ts"}}`)
	equal(t, "package.json", s.print(`import { x } from "#own"; console.log(x)`), "a\n")
	status(t, s.del("/files", "path", "bunfig.toml"), 200)
	equal(t, "bunfig.toml gone", s.print(`console.log(globalThis.prepared)`), "undefined\n")
}

// TestModulePackages: npm packages by auto-install and by bun add.
func TestModulePackages(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 2*time.Minute)
	t.Run("auto-install", func(t *testing.T) {
		s := createSession(t, ctx, enterprise(), nil)
		code := `import isNumber from "is-number@7.0.0"; console.log(isNumber("12"), isNumber("x"))`
		first := s.code(code)
		equal(t, "stdout, stderr "+first.Stderr, first.Stdout, "true false\n")
		equal(t, "again", s.print(code), "true false\n")
		equal(t, "without a version", s.code(`import isNumber from "is-number"; console.log(isNumber(5))`).Stdout, "true\n")
		equal(t, "root listing", names(s.list()), []string{})
	})
	t.Run("bun add", func(t *testing.T) {
		s := createSession(t, ctx, enterprise(), nil)
		r := s.execute(M{"command": "bun add zod@3.25.76", "timeout": 60})
		equal(t, "exitCode, stderr "+r.Stderr, r.ExitCode, 0)
		equal(t, "stdout", s.print(`
			import { z } from "zod";
			import { version } from "zod/package.json";
			console.log(version, z.object({ n: z.number() }).parse({ n: 1 }).n);
		`), "3.25.76 1\n")
		contains(t, "package.json", s.read("package.json"), `"zod"`)

		// Bun's auto-install goes off where a node_modules is; the API's does not.
		also := s.code(`import isNumber from "is-number@7.0.0"; console.log(isNumber("12"))`)
		equal(t, "auto-install beside node_modules, stderr "+also.Stderr, also.Stdout, "true\n")
		s.print(`import { z } from "zod"; z.string()`)
	})
	t.Run("no such package", func(t *testing.T) {
		s := createSession(t, ctx, enterprise(), nil)
		r := s.code(`import x from "buntime-no-such-package-4f1b"; console.log(x)`)
		equal(t, "exitCode", r.ExitCode, 1)
		contains(t, "stderr", r.Stderr, "buntime-no-such-package-4f1b")
	})
	t.Run("a package's program", func(t *testing.T) {
		s := createSession(t, ctx, enterprise(), nil)
		r := s.execute(M{"command": "bun add semver@7.7.2 && semver 1.2.3 -i minor && bunx semver 1.2.3 -i major", "timeout": 60})
		equal(t, "exitCode, stderr "+r.Stderr, r.ExitCode, 0)
		if !strings.HasSuffix(r.Stdout, "1.3.0\n2.0.0\n") {
			t.Errorf("stdout: %s", brief(r.Stdout))
		}
	})
}
