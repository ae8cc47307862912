// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/buntime/buntime/e2e/client"
)

// TestFilesLimits: the size of a file by plan, to the byte.
func TestFilesLimits(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, usual)
	for _, plan := range []struct {
		name string
		api  *client.Client
		mb   int
	}{{"free", free(), 10}, {"paid", paid(), 50}} {
		t.Run(plan.name, func(t *testing.T) {
			s := createSession(t, ctx, plan.api, nil)
			most := strings.Repeat("x", plan.mb*mib)
			s.write("most.txt", most)
			equal(t, "size", s.list()[0].Size, int64(len(most)))
			refusal(t, s.post("/files/write", M{"path": "more.txt", "content": most + "x"}), 413, "file_too_large")
			refusal(t, s.post("/execute", M{"files": []M{{"path": "more.txt", "content": most + "x"}}, "code": "1"}), 413, "file_too_large")
			equal(t, "files", names(s.list()), []string{"most.txt"})
		})
	}
	t.Run("number of files on free", func(t *testing.T) {
		s := createSession(t, ctx, free(), nil)
		files := []M{}
		for i := range 101 {
			files = append(files, M{"path": fmt.Sprintf("f%03d", i), "content": "x"})
		}
		equal(t, "100 files", s.well(s.execute(M{"files": files[:100], "code": `console.log([...new Bun.Glob("f*").scanSync()].length)`})), "100\n")
		refusedField(t, s.post("/execute", M{"files": files, "code": "1"}), "files")
	})
	t.Run("number of variables", func(t *testing.T) {
		s := createSession(t, ctx, paid(), nil)
		env := M{}
		for i := range 100 {
			env[fmt.Sprintf("V%d", i)] = "x"
		}
		equal(t, "100", s.well(s.execute(M{"env": env, "code": `console.log(Object.keys(process.env).filter((k) => /^V\d+$/.test(k)).length)`})), "100\n")
		env["V100"] = "x"
		refusedField(t, s.post("/execute", M{"env": env, "code": "1"}), "env")
	})
	t.Run("a body without end", func(t *testing.T) {
		s := createSession(t, ctx, paid(), nil)
		reply := send(t, ctx, paid(), client.Call{
			Method: "POST", Path: "/files/write",
			Body: &endless{head: `{"sessionId":` + quote(s.id) + `,"path":"x","content":"`, left: 2 << 30},
		})
		refusal(t, reply, 413, "file_too_large")
		equal(t, "files", names(s.list()), []string{})
	})
}

// endless is a body of a head and then one letter, up to left bytes.
type endless struct {
	head string
	left int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.head != "" {
		n := copy(p, e.head)
		e.head = e.head[n:]
		return n, nil
	}
	if e.left == 0 {
		return 0, fmt.Errorf("the server has taken all of a body that it should have refused")
	}
	n := min(len(p), e.left)
	copy(p, slices.Repeat([]byte("x"), n))
	e.left -= n
	return n, nil
}
