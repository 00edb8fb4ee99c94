// node:http and node:https, which know no proxy: what a program without a library writes by hand.
import { statSync } from "node:fs";
import { once } from "node:events";
import http from "node:http";
import https from "node:https";
import tls from "node:tls";
import { createGunzip } from "node:zlib";
import { pipeline } from "node:stream/promises";
import { serve } from "./lines.mjs";

const proxy = new URL(process.env.http_proxy);
const place = { host: proxy.hostname, port: proxy.port };

class Tunnels extends https.Agent {
  createConnection(options, done) {
    const authority = `${options.host}:${options.port}`;
    const asked = http.request({ ...place, method: "CONNECT", path: authority, headers: { host: authority } });
    asked.on("connect", (answer, socket) => {
      if (answer.statusCode === 200) return done(null, tls.connect({ ...options, socket, servername: options.host }));
      socket.destroy();
      done(new Error(`CONNECT: ${answer.statusCode}, retry-after ${answer.headers["retry-after"]}`));
    });
    asked.on("error", done);
    asked.end();
  }
}

const plain = new http.Agent({ keepAlive: true });
const tunnels = new Tunnels({ keepAlive: true });

function ask(url, method, headers) {
  const at = new URL(url);
  return at.protocol === "https:"
    ? https.request(at, { method, headers, agent: tunnels, timeout: 20e3 })
    : http.request({ ...place, method, path: url, headers: { host: at.host, ...headers }, agent: plain, timeout: 20e3 });
}

async function perform(kind, url, body, take, path) {
  const asked = ask(url, body ? "PUT" : "GET", kind === "put" ? { "content-length": statSync(path).size } : {});
  asked.on("timeout", () => asked.destroy(new Error("timeout")));
  const answered = new Promise((resolve, reject) => asked.on("response", resolve).on("error", reject));
  answered.catch(() => {}); // it is awaited below
  for await (const block of body ?? []) {
    // An answer before the end of the body, or an error, ends the body.
    const room = asked.write(block) || (await Promise.race([once(asked, "drain"), answered.then(() => false)]));
    if (!room) break;
  }
  asked.end();
  const answer = await answered;
  if (answer.statusCode === 302 && kind === "get") {
    answer.resume();
    return perform(kind, new URL(answer.headers.location, url).href, body, take, path);
  }
  const taker = async (blocks) => {
    for await (const block of blocks) take(block);
  };
  if (answer.headers["content-encoding"] === "gzip" && kind !== "raw") await pipeline(answer, createGunzip(), taker);
  else await taker(answer);
  return { status: answer.statusCode, fields: Object.entries(answer.headers) };
}

await serve(perform);
process.exit(0);
