// fetch, as Node has it (undici), with the proxy from the environment and the CA from NODE_EXTRA_CA_CERTS.
import { statSync } from "node:fs";
import { EnvHttpProxyAgent, fetch, request, setGlobalDispatcher } from "undici";
import { serve } from "./lines.mjs";

// Without `proxyTunnel: false` http would be tunnelled, too, and no proxy could see its answers.
setGlobalDispatcher(new EnvHttpProxyAgent({ proxyTunnel: false, headersTimeout: 20e3, bodyTimeout: 20e3 }));

await serve(async (kind, url, body, take, path) => {
  // fetch always decodes and always frames a stream by chunks: undici's own call does what it cannot.
  if (kind === "raw" || kind === "put") {
    const headers = body ? { "content-length": String(statSync(path).size) } : {};
    const answer = await request(url, { method: body ? "PUT" : "GET", headers, body });
    for await (const block of answer.body) take(block);
    return { status: answer.statusCode, fields: Object.entries(answer.headers) };
  }
  const answer = await fetch(url, body ? { method: "PUT", body, duplex: "half" } : {});
  if (answer.body) for await (const block of answer.body) take(block);
  return { status: answer.status, fields: [...answer.headers] };
});
