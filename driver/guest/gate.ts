// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// The gate. Bun loads this module before the entry, and it returns when init
// says so: by then the entry holds the code. From then on it tells init two
// things: "E", the entry's top level is over, and "X", the process is about to
// exit. Nobody but this process can write to the descriptor, so a program that
// lies, lies about itself.
//
// FFI, because node:fs would create the queue of process.nextTick, and code that
// begins with one runs its ticks in another order than without. Not of bun:ffi, nor
// anything else that has to be imported: "paths" in the session's tsconfig.json could
// name a module of its own for it, which would run before anybody asked for it.
const fd = 63;
const data = ["int", "ptr", "usize"] as const;
const libc = (Bun as any).FFI.dlopen("libc.so.6", {
  read: { args: data, returns: "isize" },
  write: { args: data, returns: "isize" },
  fcntl: { args: ["int", "int", "int"], returns: "int" },
}).symbols;
const word = new Uint8Array(1);
const tell = (c: string) => libc.write(fd, (word[0] = c.charCodeAt(0), word), 1);

libc.fcntl(fd, 2 /* F_SETFD */, 1 /* FD_CLOEXEC */);
tell("R");
let n: number;
do n = Number(libc.read(fd, word, 1)); while (n < 0); // a signal came between
if (n === 0) process.exit(1); // init let go of the runner

process.execArgv = []; // which a fork would hand on, and this module with it
// A timer that holds nothing up: where the program ends first, its end is told.
// Not an immediate, which would delay the exit after an unhandled rejection.
setTimeout(() => import(Bun.main).then(() => tell("E"), () => {}), 0).unref();
process.on("exit", () => tell("X"));
