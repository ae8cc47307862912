// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Work for the benchmark that compares inside to outside. Prints how long each
// kind of it took, in ms, as one line of JSON.
import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, readSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { connect, createServer } from "node:net";

const took: Record<string, number> = {};
async function time(kind: string, work: () => unknown) {
	const begin = performance.now();
	await work();
	took[kind] = performance.now() - begin;
}

const dir = "./work-" + process.pid;
mkdirSync(dir);
try {
	await time("cpu", () => {
		let seed = 1;
		const random = () => (seed = (seed * 48271) % 2147483647);
		const rows = Array.from({ length: 100_000 }, () => ({ id: random(), name: "name " + random().toString(36) }));
		const text = JSON.stringify(rows.sort((a, b) => a.id - b.id));
		const back = JSON.parse(text) as typeof rows;
		let hits = 0;
		for (const row of back) if (/a.*b|c+d/.test(row.name)) hits++;
		return hits;
	});

	const block = Buffer.alloc(4096, 1);
	await time("small", () => {
		for (let i = 0; i < 2000; i++) writeFileSync(dir + "/" + i, block);
		for (let i = 0; i < 2000; i++) readFileSync(dir + "/" + i);
		for (let i = 0; i < 2000; i++) rmSync(dir + "/" + i);
	});
	writeFileSync(dir + "/one", block);
	await time("stat", () => {
		for (let i = 0; i < 20_000; i++) statSync(dir + "/one");
	});

	const chunk = Buffer.alloc(1 << 20, 1);
	await time("write", () => {
		const fd = openSync(dir + "/big", "w");
		for (let i = 0; i < 256; i++) writeSync(fd, chunk);
		fsyncSync(fd);
		closeSync(fd);
	});
	await time("read", () => {
		const fd = openSync(dir + "/big", "r");
		while (readSync(fd, chunk) > 0);
		closeSync(fd);
	});
	await time("sync", () => {
		const fd = openSync(dir + "/log", "w");
		for (let i = 0; i < 200; i++) {
			writeSync(fd, block);
			fsyncSync(fd);
		}
		closeSync(fd);
	});

	await time("transfer", () => new Promise<void>((done, fail) => {
		const total = 512 << 20;
		const server = createServer((socket) => {
			let got = 0;
			socket.on("data", (data) => { if ((got += data.length) === total) { socket.destroy(); server.close(() => done()); } });
			socket.on("error", fail);
		}).listen(0, "127.0.0.1", () => {
			const client = connect((server.address() as { port: number }).port, "127.0.0.1");
			let sent = 0;
			const more = () => { while (sent < total) { sent += chunk.length; if (!client.write(chunk)) return client.once("drain", more); } };
			client.on("connect", more);
			client.on("error", () => {}); // the server hangs up first
		});
	}));

	const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("hello") });
	await time("requests", async () => {
		for (let i = 0; i < 2000; i++) await (await fetch(server.url)).text();
	});
	server.stop(true);
} finally {
	rmSync(dir, { recursive: true });
}
console.log(JSON.stringify(took));
