/** The trace of Node's modules, and of the packages of npm that stand on them. */
import { testPrograms } from "./programs.ts";

const CERTIFICATE = new URL("certificate.ts", import.meta.url).href;

testPrograms({
  "node:net, with an echo, an early write and a half-close": {
    script: `
      import net from "node:net";
      import { once } from "node:events";
      const server = net.createServer({ allowHalfOpen: true }, function serve(socket) {
        socket.on("data", (data) => socket.write(data));
        socket.on("end", () => socket.end("bye"));
      }).listen(0, "127.0.0.1");
      await once(server, "listening");
      const { port } = server.address();
      async function talk() {
        const client = net.connect(port, "127.0.0.1");
        client.write("early");
        await once(client, "connect");
        console.log(String((await once(client, "data"))[0]));
        client.write(new Uint8Array([0x68, 0x69]));
        console.log(String((await once(client, "data"))[0]));
        client.cork();
        client.write("one ");
        client.write("0a", "hex");
        client.uncork();
        console.log(String((await once(client, "data"))[0]));
        client.end();
        let text = "";
        for await (const chunk of client) text += chunk;
        console.log(text, client.bytesRead, client.bytesWritten);
      }
      await talk();
      server.close();
      await once(server, "close");`,
    trace: [
      /^program\.ts\(7\): #1 socket, bind, listen 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(7\): #\d+ accept 127\.0\.0\.1:\d+ at 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(11\):talk #\d+ socket, connect 127\.0\.0\.1:\d+ from 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(12\):talk #\d+ write 5 of 5 bytes "early"$/m,
      /^(?![^]*\(12\):talk #\d+ write[^]*\(12\):talk #\d+ write)/, // Once.
      /^program\.ts\(7\): #\d+ read 5 bytes "early"$/m,
      /^program\.ts\(5\): #\d+ write 5 of 5 bytes "early"$/m,
      /^program\.ts\(15\):talk #\d+ write 2 of 2 bytes "hi"$/m,
      /^program\.ts\(11\):talk #\d+ read 2 bytes "hi"$/m,
      /^program\.ts\(\d+\):talk #\d+ write 5 of 5 bytes "one \\n"$/m,
      /^program\.ts\(22\):talk #(\d+) closeWrite$[^]*^program\.ts\(11\):talk #\1 read 3 bytes "bye"$/m,
      /^program\.ts\(7\): #\d+ read: end of stream$/m,
      /^program\.ts\(6\): #\d+ write 3 of 3 bytes "bye"$/m,
      /^program\.ts\(6\): #\d+ closeWrite$/m,
      /^program\.ts\(11\):talk #\d+ close$/m,
      /^program\.ts\(7\): #\d+ close$/m,
      /^program\.ts\(28\): #1 close listener$/m,
    ],
  },
  "node:net, with its errors": {
    script: `
      import net from "node:net";
      import { once } from "node:events";
      const server = net.createServer(() => {}).listen(0, "127.0.0.1");
      await once(server, "listening");
      const { port } = server.address();
      const other = net.createServer().listen(port, "127.0.0.1");
      const [inUse] = await once(other, "error");
      console.log(inUse.code, inUse.syscall, inUse.port === port);
      server.close();
      await once(server, "close");
      async function refused() {
        const client = net.connect(1, "127.0.0.1");
        client.write("never", (error) => console.log("write", error.code));
        const [error] = await once(client, "error");
        console.log(error.code, error.syscall, error.port === 1, client.destroyed);
      }
      await refused();
      const destroyed = net.connect(port, "127.0.0.1");
      destroyed.destroy(new RangeError("mine"));
      console.log((await once(destroyed, "error"))[0].message);`,
    trace: [
      /^program\.ts\(7\): socket, bind, listen 127\.0\.0\.1:\d+: EADDRINUSE \(.+\)$/m,
      /^program\.ts\(13\):refused socket, connect 127\.0\.0\.1:1: ECONNREFUSED \(.+\)$/m,
      /^(?![^]*\(14\))/,
      /^program\.ts\(19\): socket, connect 127\.0\.0\.1:\d+: mine$/m,
    ],
  },
  "node:net, with a reset": {
    script: `
      import net from "node:net";
      import { once } from "node:events";
      const server = net.createServer(function serve(socket) {
        socket.on("error", (error) => console.log("server", error.code));
        socket.once("data", () => socket.resetAndDestroy());
      }).listen(0, "127.0.0.1");
      await once(server, "listening");
      const client = net.connect(server.address().port, "127.0.0.1");
      client.on("error", (error) => console.log("client", error.code, error.syscall));
      client.write("reset me");
      console.log(await new Promise((resolve) => client.on("close", resolve)));
      server.close();`,
    trace: [
      /^program\.ts\(9\): #\d+ read: ECONNRESET \(read ECONNRESET\)$/m,
      /^program\.ts\(9\): #\d+ close$/m,
      /^program\.ts\(6\): #\d+ reset$/m,
    ],
  },
  "node:net, with an end that is overtaken": {
    script: `
      import net from "node:net";
      import { once } from "node:events";
      const server = net.createServer((socket) => socket.resume()).listen(0, "127.0.0.1");
      await once(server, "listening");
      const client = net.connect(server.address().port, "127.0.0.1");
      await once(client, "connect");
      client.end();
      await new Promise((resolve) => process.nextTick(resolve));
      client.destroy();
      await once(client, "close");
      server.close();
      await once(server, "close");
      console.log("done");`,
    trace: [
      /^program\.ts\(6\): #(\d+) socket, connect [^]*^program\.ts\(10\): #\1 close$/m,
      /^(?![^]*^program\.ts\(6\): #\d+ closeWrite$)/m,
    ],
  },
  "a Unix socket of node:net": {
    flags: ["--allow-read", "--allow-write"],
    script: `
      import net from "node:net";
      import { once } from "node:events";
      const path = new URL(Deno.pid + ".socket", import.meta.url).pathname;
      const server = net.createServer((socket) => socket.end("by path")).listen(path);
      await once(server, "listening");
      console.log(server.address() === path);
      const client = net.connect({ path });
      for await (const chunk of client) console.log(String(chunk));
      server.close();
      await once(server, "close");
      const [error] = await once(net.connect(path), "error");
      console.log(error.code);`,
    trace: [
      /^program\.ts\(5\): #1 socket, bind, listen \S+\/\d+\.socket$/m,
      /^program\.ts\(8\): #\d+ socket, connect \S+\/\d+\.socket from unix$/m,
      /^program\.ts\(5\): #\d+ accept unix at \S+\/\d+\.socket$/m,
      /^program\.ts\(5\): #\d+ write 7 of 7 bytes "by path"$/m,
      /^program\.ts\(8\): #\d+ read 7 bytes "by path"$/m,
      /^program\.ts\(12\): socket, connect \S+\/\d+\.socket: ENOENT \(.+\)$/m,
    ],
  },
  "node:tls, with plain text": {
    script: `
      import net from "node:net";
      import tls from "node:tls";
      import { once } from "node:events";
      import { cert, key } from "${CERTIFICATE}";
      const server = tls.createServer({ cert, key }, function serve(socket) {
        socket.on("data", (data) => socket.write(String(data).toUpperCase()));
        socket.on("end", () => socket.end());
      });
      server.on("tlsClientError", () => {});
      server.listen(0, "127.0.0.1");
      await once(server, "listening");
      const { port } = server.address();
      const host = "127.0.0.1", servername = "localhost";
      async function talk(client, text) {
        await once(client, "secureConnect");
        client.write(text);
        console.log(String((await once(client, "data"))[0]), client.authorized);
        client.end();
        client.resume();
        await once(client, "close");
      }
      await talk(tls.connect({ port, host, servername, ca: cert }), "at once");
      const plain = net.connect(port, host);
      await once(plain, "connect");
      await talk(tls.connect({ socket: plain, servername, ca: cert }), "later");
      const stranger = tls.connect({ port, host, servername });
      console.log((await once(stranger, "error"))[0].code);
      server.close();
      await once(server, "close");`,
    trace: [
      /^program\.ts\(23\): #\d+ handshake$/m,
      /^program\.ts\(11\): #\d+ handshake$/m,
      // TLS has the number of the socket it stands on.
      /^program\.ts\(23\): #(\d+) socket, connect [^]*^program\.ts\(17\):talk #\1 write 7 of 7 bytes "at once"$[^]*^program\.ts\(23\): #\1 read 7 bytes "AT ONCE"$[^]*^program\.ts\(23\): #\1 close$/m,
      /^program\.ts\(24\): #(\d+) socket, connect [^]*^program\.ts\(17\):talk #\1 write 5 of 5 bytes "later"$[^]*^program\.ts\(24\): #\1 read 5 bytes "LATER"$[^]*^program\.ts\(24\): #\1 close$/m,
      /^program\.ts\(11\): #(\d+) accept [^]*^program\.ts\(11\): #\1 read 7 bytes "at once"$[^]*^program\.ts\(7\): #\1 write 7 of 7 bytes "AT ONCE"$[^]*^program\.ts\(11\): #\1 close$/m,
      /^program\.ts\(27\): #(\d+) handshake: DEPTH_ZERO_SELF_SIGNED_CERT .+\n(?:.*\n)*?program\.ts\(27\): #\1 close$/m,
      /^(?![^]*#(\d+) close\n[^]*#\1 close\n)/, // Each is closed once.
      /^(?![^]*bytes "\\x1[4-7]\\x03)/, // No record of TLS.
    ],
  },
  "node:dgram": {
    script: `
      import dgram from "node:dgram";
      import { once } from "node:events";
      const socket = dgram.createSocket("udp4").bind(0, "127.0.0.1");
      await once(socket, "listening");
      const { port } = socket.address();
      const other = dgram.createSocket("udp4").bind(0, "127.0.0.1");
      await once(other, "listening");
      async function ask(...args) {
        const asked = once(socket, "message");
        other.send(...args, (error, bytes) => console.log("sent", error, bytes));
        const [data, { size }] = await asked;
        console.log(String(data), size);
      }
      await ask("ping", port, "127.0.0.1");
      await ask(new TextEncoder().encode("a long one"), 2, 4, port, "127.0.0.1");
      await ask(["two ", "parts"], port, "127.0.0.1");
      console.log(await new Promise((done) => other.send(new Uint8Array(65508), port, "127.0.0.1", (e) => done(e.code))));
      const taken = dgram.createSocket("udp4").bind(port, "127.0.0.1");
      console.log((await once(taken, "error"))[0].code);
      other.connect(port, "127.0.0.1");
      await once(other, "connect");
      await ask("connected");
      await ask("connected", 3, 4);
      other.close();
      socket.close();
      await once(socket, "close");`,
    trace: [
      /^program\.ts\(4\): #1 socket, bind 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(11\):ask #2 sendto 127\.0\.0\.1:\d+ 4 of 4 bytes "ping"$/m,
      /^program\.ts\(4\): #1 recvfrom 127\.0\.0\.1:\d+ 4 bytes "ping"$/m,
      /^program\.ts\(11\):ask #2 sendto 127\.0\.0\.1:\d+ 4 of 4 bytes "long"$/m,
      /^program\.ts\(11\):ask #2 sendto 127\.0\.0\.1:\d+ 9 of 9 bytes "two parts"$/m,
      /^program\.ts\(18\): #2 sendto 127\.0\.0\.1:\d+: EMSGSIZE \(.+\)$/m,
      /^program\.ts\(19\): socket, bind(?: 127\.0\.0\.1:\d+)?: EADDRINUSE \(.+\)$/m,
      /^program\.ts\(21\): #2 connect 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(11\):ask #2 sendto 127\.0\.0\.1:\d+ 9 of 9 bytes "connected"$/m,
      /^program\.ts\(11\):ask #2 sendto 127\.0\.0\.1:\d+ 4 of 4 bytes "nect"$/m,
      /^program\.ts\(25\): #2 close\nprogram\.ts\(26\): #1 close$/m,
    ],
  },
  "a send of node:dgram that binds": {
    script: `
      import dgram from "node:dgram";
      import { once } from "node:events";
      const socket = dgram.createSocket("udp4").bind(0, "127.0.0.1");
      await once(socket, "listening");
      function ask() {
        const other = dgram.createSocket("udp4");
        other.send("unbound", socket.address().port, "127.0.0.1", (error) => {
          console.log(error);
          other.close();
        });
      }
      const asked = once(socket, "message");
      ask();
      console.log(String((await asked)[0]));
      socket.close();`,
    trace: [
      /^program\.ts\(8\):ask #2 socket, bind 0\.0\.0\.0:\d+$/m,
      /^program\.ts\(8\):ask #2 sendto 127\.0\.0\.1:\d+ 7 of 7 bytes "unbound"$/m,
      /^(?![^]* sendto [^]* sendto )/, // Once.
    ],
  },
  "node:http, with an agent that keeps its connection": {
    script: `
      import http from "node:http";
      import { once } from "node:events";
      const server = http.createServer(function answer(request, response) {
        response.statusCode = request.url === "/" ? 200 : 404;
        request.resume().on("end", () => response.end("answer"));
      }).listen(0, "127.0.0.1");
      await once(server, "listening");
      const { port } = server.address();
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
      async function ask(path, method, body) {
        const request = http.request({ port, host: "127.0.0.1", path, method, agent });
        request.end(body);
        const [response] = await once(request, "response");
        let text = "";
        for await (const chunk of response) text += chunk;
        console.log(response.statusCode, text, request.reusedSocket);
        await new Promise((resolve) => setImmediate(resolve)); // Then it is free again.
      }
      await ask("/", "GET");
      await ask("/nothing?a=1", "POST", "a body");
      agent.destroy();
      server.close();
      await once(server, "close");`,
    trace: [
      /^program\.ts\(7\): #1 socket, bind, listen 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(7\): #(\d+) accept 127[^]*^program\.ts\(7\): #\1 GET \/: 200$[^]*^program\.ts\(7\): #\1 POST \/nothing\?a=1: 404$/m,
      /^program\.ts\(12\):ask #(\d+) socket, connect [^]*:ask #\1 write \d+ of \d+ bytes "GET \/ HTTP\/1\.1[^]*:ask #\1 read \d+ bytes "HTTP\/1\.1 200 OK[^]*^#\1 write \d+ of \d+ bytes "POST \/nothing/m,
      /^(?![^]* socket, connect [^]* socket, connect )/,
    ],
  },
  "node:http, whatever way an answer takes": {
    script: `
      import http from "node:http";
      import { once } from "node:events";
      const ways = {
        text(response) { response.end("short"); },
        nothing(response) { response.end(); },
        latin(response) { response.end("\\xe4", "latin1"); },
        bytes(response) { response.end(new Uint8Array(5)); },
        pieces(response) { response.write("one"); response.end("two"); },
        large(response) { response.end("x".repeat(300_000)); },
      };
      const server = http.createServer(function answer(request, response) {
        response.sendDate = false;
        ways[request.url.slice(1)](response);
      }).listen(0, "127.0.0.1");
      await once(server, "listening");
      const { port } = server.address();
      const conn = await Deno.connect({ port });
      let sum = 0;
      (async () => { for await (const chunk of conn.readable) sum += chunk.length; })();
      for (const name of Object.keys(ways)) {
        const before = sum;
        await conn.write(new TextEncoder().encode("GET /" + name + " HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n"));
        while (sum === before) await new Promise((resolve) => setTimeout(resolve, 5));
      }
      while (sum < 300_000) await new Promise((resolve) => setTimeout(resolve, 5));
      console.log(sum);
      server.closeAllConnections();
      server.close();
      await once(server, "close");`,
    trace: [
      // Each answer is written once, and before the request is done.
      ...["text", "nothing", "latin", "bytes", "pieces", "large"].map((
        way,
        i,
      ) =>
        RegExp(
          String.raw`^program\.ts\(${
            5 + i
          }\):${way} #(\d+) write (\d+) of \2 bytes "HTTP/1\.1 200 OK.*\n` +
            String.raw`(?:.* #\d+ (?:write|read) .*\n)*` +
            String.raw`.*^program\.ts\(15\): #\1 GET /${way}: 200$`,
          "m",
        )
      ),
      /^program\.ts\(10\):large #\d+ write 3\d{5} of 3\d{5} bytes "HTTP/m,
    ],
  },
  "node:http, with an upgrade and requests that nobody waits for": {
    script: `
      import http from "node:http";
      import { once } from "node:events";
      const server = http.createServer(() => {}).listen(0, "127.0.0.1");
      server.on("upgrade", (request, socket) => socket.end("HTTP/1.1 101 Upgraded\\r\\n\\r\\n"));
      await once(server, "listening");
      const { port } = server.address();
      const conn = await Deno.connect({ port });
      await conn.write(new TextEncoder().encode("GET /up HTTP/1.1\\r\\nHost: a\\r\\nConnection: upgrade\\r\\nUpgrade: mine\\r\\n\\r\\n"));
      console.log(await conn.read(new Uint8Array(99)));
      conn.close();
      const never = http.get({ port, host: "127.0.0.1", path: "/never" });
      await once(server, "request");
      never.on("error", (error) => console.log(error.code));
      never.destroy();
      await new Promise((done) => never.on("close", done));
      server.close();
      await once(server, "close");`,
    trace: [
      /^program\.ts\(4\): #\d+ GET \/up: upgrade$/m,
      /^program\.ts\(4\): #(\d+) GET \/never: closed before it was done\nprogram\.ts\(4\): #\1 close$/m,
    ],
  },
  "packages, with the line that called them": {
    files: {
      "package.json": '{ "dependencies": { "mypkg": "*", "@scope/pkg": "*" } }',
      "node_modules/mypkg/package.json":
        '{ "name": "mypkg", "version": "1.0.0", "main": "index.js" }',
      "node_modules/mypkg/index.js": `
        const net = require("node:net");
        exports.send = (socket, text) => socket.write(text);
        exports.serve = () => {
          const server = net.createServer((socket) => {
            socket.once("data", (data) => socket.end(data));
          });
          return server.listen(0, "127.0.0.1");
        };
        exports.refused = new Promise((resolve) => {
          setTimeout(() => net.connect(1, "127.0.0.1").on("error", resolve), 0);
        });`,
      "node_modules/@scope/pkg/package.json":
        '{ "name": "@scope/pkg", "version": "1.0.0", "type": "module", "main": "lib/index.js" }',
      "node_modules/@scope/pkg/lib/index.js": `
        import net from "node:net";
        export const dial = (port) => net.connect(port, "127.0.0.1");
        export const listen = () => Deno.listen({ hostname: "127.0.0.1", port: 0 });`,
    },
    script: `
      import mypkg from "mypkg";
      import { dial, listen } from "@scope/pkg";
      import { once } from "node:events";
      const server = mypkg.serve();
      await once(server, "listening");
      async function greet() {
        const socket = dial(server.address().port);
        await once(socket, "connect");
        mypkg.send(socket, "by mypkg");
        for await (const chunk of socket) console.log(String(chunk));
        const mine = dial(server.address().port);
        mine.end("by me");
        for await (const chunk of mine) console.log(String(chunk));
      }
      await greet();
      server.close();
      console.log((await mypkg.refused).code);
      listen().close();`,
    trace: [
      /^program\.ts\(5\): \[mypkg\] #1 socket, bind, listen 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(5\): \[mypkg\] #\d+ accept 127\.0\.0\.1:\d+ at /m,
      /^program\.ts\(8\):greet \[@scope\/pkg\] #(\d+) socket, connect [^]*^program\.ts\(10\):greet \[@scope\/pkg\] #\1 write 8 of 8 bytes "by mypkg"$/m,
      /^program\.ts\(13\):greet #\d+ write 5 of 5 bytes "by me"$/m,
      /^program\.ts\(17\): #1 close listener$/m,
      // Nobody's line is on the stack of a timer.
      /^\[mypkg\] socket, connect 127\.0\.0\.1:1: ECONNREFUSED \(.+\)$/m,
      /^program\.ts\(19\): \[@scope\/pkg\] #\d+ socket, bind, listen /m,
    ],
  },
  "node:net, in the same order as without it": {
    script: `
      import net from "node:net";
      import process from "node:process";
      import { once } from "node:events";
      const logs = { client: [], server: [] };
      /** Where else things happen between one event and the next. */
      const around = (log, name) => {
        log.push(name);
        Promise.resolve().then(() => log.push("microtask of " + name));
        process.nextTick(() => log.push("nextTick of " + name));
      };
      const watch = (log, emitter, events) => {
        for (const name of events) emitter.on(name, (...args) => around(log, name + " " + args.join()));
      };
      const both = ["lookup", "connect", "ready", "end", "finish", "drain", "close", "error"];
      const server = net.createServer({ allowHalfOpen: true }, (socket) => {
        const log = logs.server;
        around(log, "connection " + socket.listenerCount("data") + socket.readyState);
        watch(log, socket, both);
        socket.on("data", (data) => {
          around(log, "data " + data);
          around(log, "write " + socket.write(data, () => around(log, "written")));
        });
        socket.on("end", () => socket.end(() => around(log, "ended")));
      });
      watch(logs.server, server, ["listening", "close"]);
      around(logs.server, "listen " + (server.listen(0, "127.0.0.1") === server) + server.listening);
      await once(server, "listening");
      const log = logs.client;
      const client = new net.Socket();
      watch(log, client, both);
      const returned = client.connect(server.address().port, "127.0.0.1", () => around(log, "callback"));
      around(log, "connect " + (returned === client) + client.connecting + client.pending + client.readyState);
      around(log, "write " + client.write("early", () => around(log, "written early")));
      const [early] = await once(client, "data");
      around(log, "data " + early + client.listenerCount("data") + client.listenerCount("error"));
      around(log, "write " + client.write("late"));
      const [late] = await once(client, "data");
      around(log, "data " + late + client.bytesRead + client.bytesWritten);
      client.end(() => around(log, "ended"));
      client.resume();
      await once(client, "close");
      server.close();
      await once(server, "close");
      // What both sides do is in any order, what each of them does is not.
      console.log(logs.client.join("\\n"), "\\n", logs.server.join("\\n"));
      const refused = [];
      const nobody = net.connect(1, "127.0.0.1");
      watch(refused, nobody, both);
      nobody.write("never", (error) => around(refused, "written " + error.code));
      await new Promise((resolve) => nobody.on("close", resolve));
      console.log(refused.join("\\n"));`,
    trace: [/^program\.ts\(32\): #\d+ socket, connect /m],
  },
  "that prototypes stay as they are": {
    script: `
      import net from "node:net";
      import dgram from "node:dgram";
      import tls from "node:tls";
      const keys = {
        connect: net.Socket, emit: net.Socket, push: net.Socket, _read: net.Socket,
        _writeGeneric: net.Socket, _final: net.Socket, _destroy: net.Socket, write: tls.TLSSocket,
        listen: net.Server, close: net.Server, send: dgram.Socket, bind: dgram.Socket,
      };
      for (const [key, { prototype }] of Object.entries(keys)) {
        let owner = prototype;
        while (!Object.hasOwn(owner, key)) owner = Object.getPrototypeOf(owner);
        const { writable, configurable } = Object.getOwnPropertyDescriptor(owner, key);
        const method = prototype[key];
        console.log(key, method.name, method.length, writable, configurable);
        prototype[key] = function mine(...args) { console.log("mine", key); return method.apply(this, args); };
        console.log(prototype[key].name);
      }
      const server = net.createServer((socket) => socket.end("x")).listen(0, "127.0.0.1");
      server.once("listening", () => {
        const client = net.connect(server.address().port, "127.0.0.1");
        client.on("data", () => {}).on("close", () => server.close());
      });`,
    trace: [
      /^program\.ts\(16\):mine #1 socket, bind, listen /m,
      /^program\.ts\(16\):mine #\d+ read 1 byte "x"$/m,
    ],
  },
  "that for...in finds the same names": {
    script: `
      import net from "node:net";
      import dgram from "node:dgram";
      for (const it of [new net.Socket(), net.createServer(), dgram.createSocket("udp4")]) {
        const names = [];
        for (const name in it) names.push(name);
        console.log(names.toSorted().join(" "));
        it.close?.();
      }`,
    trace: [],
  },
});
