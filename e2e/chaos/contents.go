// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"
)

// content is what a write writes: of so many bytes, a line that says whose it is, and
// then what follows from that line. No two writes of a run have the same.
func content(header string, size int) []byte {
	b := append(make([]byte, 0, size+64), header+"\n"...)
	for n := 0; len(b) < size; n++ {
		sum := sha256.Sum256([]byte(header + ":" + strconv.Itoa(n)))
		b = hex.AppendEncode(b, sum[:])
	}
	return b[:max(size, len(header)+1)]
}

// program is code that writes and reads files as the work in its first line says, and
// tells what it has read. A write is a rename, so that a snapshot has it or not.
const program = `import { renameSync, readFileSync, existsSync } from "node:fs";
const work: { write: [string, string, number][], read: string[] } = %s;
const sum = (d: string | Uint8Array) => new Bun.CryptoHasher("sha256").update(d).digest("hex");
for (const [path, header, size] of work.write) {
  const parts = [header + "\n"];
  for (let n = 0, have = parts[0].length; have < size; n++, have += 64) parts.push(sum(header + ":" + n));
  const text = parts.join("").slice(0, Math.max(size, header.length + 1));
  await Bun.write(path + ".new", text);
  renameSync(path + ".new", path);
}
console.log(JSON.stringify(work.read.map(p => existsSync(p) ? sum(readFileSync(p)) : "")));
`

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// contents knows what every write of the run has written, to say what is found where
// it does not belong.
type contents struct {
	mu  sync.Mutex
	all map[string]string // by sum, the header
}

func newContents() *contents { return &contents{all: map[string]string{}} }

func (c *contents) add(sum, header string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[sum] = header
}

// is says what has a sum.
func (c *contents) is(sum string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if header, ok := c.all[sum]; ok {
		return "that is " + header
	}
	return fmt.Sprintf("nobody has ever written that (sha256 %.12s…)", sum)
}
