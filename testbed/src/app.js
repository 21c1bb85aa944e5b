// An application server on Node's own HTTP server, with no module but Node's. It serves the testbed's
// contents without files, takes uploads, and keeps connections that are not requests and responses.
//
//   GET, HEAD /NAME.SIZE        a content, with ranges and If-None-Match; or a file, if there is one
//   POST /app/echo/NAME.SIZE    the body back
//   POST /app/check/NAME.SIZE   "ok SIZE" if the body is that of this path, else 400
//   GET /app/poll/MS            "polled", that late
//   GET /app/events/COUNT/MS    so many server-sent events, that far apart
//   Upgrade: echo, CONNECT      all bytes back
//
// Arguments: port, the node's name, the access log, the directory of files.
'use strict';
const fs = require('fs');
const http = require('http');
const path = require('path');
const [port, name, log, files] = process.argv.slice(2);

const BLOCK = 65536;
const MASK = (1n << 64n) - 1n;
const ECHO_MAX = 4 << 20;

// The bodies' rule; its other writing is content.rs.
function block(of, length) {
    let state = 0xcbf29ce484222325n;
    for (const byte of Buffer.from(of)) state = ((state ^ BigInt(byte)) * 0x100000001b3n) & MASK;
    const next = () => {
        state = (state + 0x9e3779b97f4a7c15n) & MASK;
        let mixed = ((state ^ (state >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
        mixed = ((mixed ^ (mixed >> 27n)) * 0x94d049bb133111ebn) & MASK;
        return mixed ^ (mixed >> 31n);
    };
    const words = Math.ceil(length / 8);
    const bytes = Buffer.alloc(words * 8);
    for (let i = 0; i < words; i++) bytes.writeBigUInt64LE(next(), i * 8);
    return { bytes: bytes.subarray(0, length), head: next() };
}

const blocks = new Map();
function blockOf(of, size) {
    let made = blocks.get(of);
    if (!made) {
        made = block(of, Math.min(size, BLOCK));
        if (blocks.size >= 256) blocks.delete(blocks.keys().next().value);
        blocks.set(of, made);
    }
    return made;
}

// The bytes of a content from `start` on, to the end of its block or to `end`.
function piece(of, size, start, end) {
    const { bytes, head } = blockOf(of, size);
    const number = Math.floor(start / BLOCK);
    const copy = Buffer.from(bytes);
    const word = Buffer.alloc(8);
    word.writeBigUInt64LE(head ^ BigInt(number));
    word.copy(copy, 0, 0, Math.min(8, copy.length));
    const base = number * BLOCK;
    return copy.subarray(start - base, Math.min(BLOCK, end - base));
}

function sizeOf(of) {
    const found = /\.(\d{1,12})$/.exec(of);
    return found ? Number(found[1]) : null;
}

function send(res, of, size, start, end) {
    let at = start;
    const more = () => {
        while (at < end) {
            const bytes = piece(of, size, at, end);
            at += bytes.length;
            if (!res.write(bytes)) return res.once('drain', more);
        }
        res.end();
    };
    more();
}

function serveContent(req, res, of) {
    const size = sizeOf(of);
    if (size === null) return serveFile(req, res, of);
    const tag = `"${size}"`;
    res.setHeader('ETag', tag);
    res.setHeader('Accept-Ranges', 'bytes');
    if (req.headers['if-none-match'] === tag) return answer(res, 304);
    let [start, end] = [0, size];
    const range = /^bytes=(\d*)-(\d*)$/.exec(req.headers.range || '');
    if (range && (range[1] || range[2])) {
        if (range[1]) {
            start = Number(range[1]);
            end = range[2] ? Math.min(size, Number(range[2]) + 1) : size;
        } else {
            start = Math.max(0, size - Number(range[2]));
        }
        if (start >= end) {
            res.setHeader('Content-Range', `bytes */${size}`);
            return answer(res, 416);
        }
        res.statusCode = 206;
        res.setHeader('Content-Range', `bytes ${start}-${end - 1}/${size}`);
    }
    res.setHeader('Content-Type', 'application/octet-stream');
    res.setHeader('Content-Length', end - start);
    if (req.method === 'HEAD') return res.end();
    send(res, of, size, start, end);
}

function serveFile(req, res, of) {
    const file = path.join(files, path.normalize(of));
    fs.readFile(file, (error, bytes) => {
        if (error) return answer(res, 404, 'not found\n');
        if (file.endsWith('.html')) res.setHeader('Content-Type', 'text/html');
        answer(res, 200, bytes);
    });
}

function answer(res, status, body) {
    res.statusCode = status;
    if (body !== undefined) res.setHeader('Content-Length', Buffer.byteLength(body));
    res.end(body);
}

function echo(req, res) {
    const parts = [];
    let length = 0;
    req.on('data', (bytes) => {
        length += bytes.length;
        if (length <= ECHO_MAX) parts.push(bytes);
    });
    req.on('end', () => {
        if (length > ECHO_MAX) return answer(res, 413, 'too long\n');
        answer(res, 200, Buffer.concat(parts));
    });
}

function check(req, res, of) {
    const size = sizeOf(of);
    let [at, wrong] = [0, -1];
    req.on('data', (bytes) => {
        for (let i = 0; i < bytes.length && wrong < 0;) {
            if (at >= size) { wrong = at; break; }
            const right = piece(of, size, at, Math.min(size, at + bytes.length - i));
            if (right.compare(bytes, i, i + right.length) !== 0) wrong = at;
            i += right.length;
            at += right.length;
        }
    });
    req.on('end', () => {
        if (wrong >= 0 || at !== size) return answer(res, 400, `wrong at ${wrong < 0 ? at : wrong}\n`);
        answer(res, 200, `ok ${size}\n`);
    });
}

function events(res, count, ms) {
    res.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
    let sent = 0;
    const timer = setInterval(() => {
        res.write(`id: ${sent}\ndata: event ${sent} of ${name}\n\n`);
        sent += 1;
        if (sent === count) {
            clearInterval(timer);
            res.end();
        }
    }, ms);
    res.on('close', () => clearInterval(timer));
}

const lines = fs.createWriteStream(log, { flags: 'a' });
function note(socket, status, req) {
    lines.write(`${socket.from} ${status} ${req.method} ${req.url} HTTP/${req.httpVersion}\n`);
}

const server = http.createServer({ keepAlive: true }, (req, res) => {
    const socket = req.socket;
    res.setHeader('X-Node', name);
    res.on('close', () => note(socket, res.statusCode, req));
    const of = req.url.split('?')[0];
    const [, , what, ...args] = of.split('/');
    if (!of.startsWith('/app/')) {
        if (req.method === 'GET' || req.method === 'HEAD') return serveContent(req, res, of);
        req.resume();
        return answer(res, 405, 'GET or HEAD\n');
    }
    switch (what) {
        case 'echo': return echo(req, res);
        case 'check': return check(req, res, of);
        case 'poll': return setTimeout(() => answer(res, 200, 'polled\n'), Number(args[0]));
        case 'events': return events(res, Number(args[0]), Number(args[1]));
        default: return answer(res, 404, 'no such action\n');
    }
});
function tunnel(req, socket, head, reply) {
    note(socket, 101, req);
    socket.on('error', () => {});
    socket.write(reply);
    if (head.length) socket.write(head);
    socket.pipe(socket);
}
server.on('upgrade', (req, socket, head) => {
    if (req.headers.upgrade !== 'echo') return socket.end('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
    tunnel(req, socket, head, `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Node: ${name}\r\n\r\n`);
});
server.on('connect', (req, socket, head) => tunnel(req, socket, head, `HTTP/1.1 200 Connected\r\nX-Node: ${name}\r\n\r\n`));
// A socket that is gone no longer says whose it was.
server.on('connection', (socket) => { socket.from = `${socket.remoteAddress} ${socket.remotePort}`; });
server.keepAliveTimeout = 600000;
server.listen(Number(port));
