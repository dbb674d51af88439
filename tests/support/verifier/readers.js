// Shows whom mailparser takes a message to be from.
//
//     node readers.js mailparser | mailparser-older
//
// Reads messages, one a line in base64, and prints one JSON object a line: reader -> the addresses that it shows as author
// or sender, or null when it fails. Run in the folder of node_modules. Nothing of it is inboxd's own code.

const { createInterface } = require('node:readline');
const { createRequire } = require('node:module');

const [name] = process.argv.slice(2);
const { simpleParser } = createRequire(`${process.cwd()}/`)(name);

/** The addresses in a list, with the members of its groups. */
function addresses(list) {
    return list.flatMap(entry => (entry.group ? addresses(entry.group) : [entry.address || '']));
}

(async () => {
    for await (const line of createInterface({ input: process.stdin })) {
        let shown = null;
        try {
            const { headers } = await simpleParser(Buffer.from(line, 'base64'));
            const fields = ['from', 'sender'].map(field => headers.get(field)).filter(Boolean);
            shown = fields.flat().flatMap(field => addresses(field.value));
        } catch (error) {
            process.stderr.write(`${name} ${error}\n`);
        }
        process.stdout.write(`${JSON.stringify({ [name]: shown })}\n`);
    }
})();
