// Shows whom imapflow takes the messages of a folder to be from.
//
//     node imapflow.js PORT USER PASSWORD CA-FILE
//
// Prints one JSON object a line, in the order of the messages: imapflow -> the addresses that it shows as author or sender.
// Run in the folder of node_modules. Nothing of it is inboxd's own code.

const { readFileSync } = require('node:fs');
const { createRequire } = require('node:module');

const { ImapFlow } = createRequire(`${process.cwd()}/`)('imapflow');
const [port, user, pass, ca] = process.argv.slice(2);

(async () => {
    const client = new ImapFlow({
        host: '127.0.0.1',
        port: Number(port),
        secure: true,
        auth: { user, pass },
        tls: { ca: readFileSync(ca) },
        logger: false
    });
    await client.connect();
    const lock = await client.getMailboxLock('INBOX');
    for await (const { envelope } of client.fetch('1:*', { envelope: true })) {
        const shown = [...(envelope.from || []), ...(envelope.sender || [])].map(entry => entry.address || '');
        process.stdout.write(`${JSON.stringify({ imapflow: shown })}\n`);
    }
    lock.release();
    await client.logout();
})();
