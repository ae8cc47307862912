// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

// frame is what makes a program of a snippet.
type frame struct {
	section string // the heading above it
	before  string // what it leaves out
	after   string // what it is said to do
}

const aSession = `const session = await client.sessions.create();`

// frames of all snippets of the users' document, in its order.
var frames = []frame{
	{"What is a Session?", ``, `
		ok(/^ses_[A-Za-z0-9]{18,20}$/.test(session.id), session.id);
		equal(client.results.length, 2);
		equal((await client.sessions.info({ sessionId: session.id })).id, session.id);
	`},
	{"1. Creation", ``, `
		equal(seconds(session.createdAt, session.expiresAt), 3600);
		equal((await client.sessions.info({ sessionId: session.id })).metadata, { userId: 'user_123', purpose: 'data-analysis' });
		equal([...await client.files.list({ sessionId: session.id })], []);
	`},
	{"Time-to-Live (TTL)", ``, `
		equal(seconds(session.createdAt, session.expiresAt), 3600);
		const usual = await client.sessions.create();
		equal(seconds(usual.createdAt, usual.expiresAt), 86400);
		await rejects(client.sessions.create({ ttl: 299 }), { code: 'invalid_request', details: { field: 'ttl' } });
		await rejects(client.sessions.create({ ttl: 604801 }), { code: 'invalid_request', details: { field: 'ttl' } });
	`},
	{"Metadata", ``, `
		equal((await client.sessions.info({ sessionId: session.id })).metadata,
			{ userId: 'user_123', conversationId: 'conv_456', environment: 'production', createdBy: 'ai-agent' });
	`},
	{"Workspace Directory", aSession, `
		equal(client.results.map((r) => [r.stdout, r.stderr, r.exitCode]), [['/workspace\n', '', 0], ['Hello World\n', '', 0]]);
		equal(await client.files.read({ sessionId: session.id, path: 'data.txt' }), 'Hello World');
	`},
	{"Background Processes", aSession, `
		equal(client.results.map((r) => [r.background, r.exitCode]), [[true, 0]]);
		equal(await visit(session.previewUrl), 'Server running!');
		await client.execute({ sessionId: session.id, code: '1' });
		equal(await visit(session.previewUrl), 'Server running!');
	`},
	{"Stopping Processes", aSession, `
		const { pid } = await client.execute({ sessionId: session.id, code: 'Bun.serve({ port: 8080, fetch: () => new Response() })' });
		equal(await client.execution.kill({ sessionId: session.id, pid }), { killed: 1, pids: [pid] });
		equal(await client.processes.list({ sessionId: session.id }), []);
	`},
	{"One Session Per Conversation", ``, `
		const manager = new ConversationManager();
		const one = await manager.getSession('one');
		const two = await manager.getSession('two');
		ok(one && two && one !== two);
		equal(await manager.getSession('one'), one);
		equal((await client.sessions.info({ sessionId: one })).metadata, { conversationId: 'one' });
		await manager.endConversation('one');
		await rejects(client.sessions.info({ sessionId: one }), { code: 'session_not_found' });
		equal((await client.sessions.info({ sessionId: two })).id, two);
		ok((await manager.getSession('one')) !== one);
	`},
	{"One Session Per Task", ``, `
		equal((await runTask('console.log(6 * 7)')).stdout, '42\n');
		equal((await runTask('throw new Error("failed")')).exitCode, 1);
		equal(client.made.length, 2);
		for (const sessionId of client.made) await rejects(client.sessions.info({ sessionId }), { code: 'session_not_found' });
	`},
	{"Session Pool", ``, `
		const pool = new SessionPool();
		const first = await pool.getSession();
		await client.files.write({ sessionId: first, path: 'used', content: '' });
		pool.releaseSession(first);
		equal(await pool.getSession(), first);
		const second = await pool.getSession();
		ok(second !== first);
		pool.releaseSession(first);
		pool.releaseSession(second);
		await pool.cleanup();
		for (const sessionId of [first, second]) await rejects(client.sessions.info({ sessionId }), { code: 'session_not_found' });
	`},
	{"Best Practices", ``, `
		equal([task, chat].map((s) => seconds(s.createdAt, s.expiresAt)), [600, 86400]);
	`},
	{"Always add metadata to help debug and track sessions.", `const req = { user: { id: 'user_123' } };`, `
		equal((await client.sessions.info({ sessionId: session.id })).metadata, { userId: 'user_123', source: 'web-app', version: '1.0.0' });
	`},
	{"Delete sessions explicitly to free resources and reduce costs.", aSession, `
		await rejects(client.sessions.info({ sessionId: session.id }), { code: 'session_not_found', status: 404 });
	`},
	{"Never reuse sessions across different users or security contexts.", `const user = { id: 'user_123' };`, `
		ok(sharedSession.id !== userSession.id);
		equal((await client.sessions.info({ sessionId: userSession.id })).metadata, { userId: 'user_123' });
		await client.files.write({ sessionId: userSession.id, path: 'own.txt', content: 'own' });
		await rejects(client.files.read({ sessionId: sharedSession.id, path: 'own.txt' }), { code: 'file_not_found' });
	`},
	{"Get Session Info", aSession + ` await client.files.write({ sessionId: session.id, path: 'a.txt', content: 'a' });`, `
		equal(seconds(info.createdAt, info.expiresAt), 86400);
		ok(seconds(info.createdAt, info.lastActive) >= 0);
		equal([info.filesCount, info.activeProcesses, info.state], [1, 0, 'active']);
		info.state satisfies "active" | "idle" | "deep-sleep";
	`},
	{"List Your Sessions", aSession, `
		ok(sessions.some(({ id }) => id === session.id));
		ok(sessions.length <= 50 && sessions.total >= sessions.length);
	`},
}
