// What the Node programs share; the orders and answers are described in lines.py.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";

const orders = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function* pieces() {
  for (;;) {
    const { value, done } = await orders.next();
    if (done || value === "end") return;
    yield Buffer.from(value.split("\t")[1] + "\n");
  }
}

const say = (...words) => process.stdout.write(words.join("\t") + "\n");

// Carries out every order by `perform(kind, url, body, take)`, which resolves to the status and the fields.
export async function serve(perform) {
  for (;;) {
    const { value, done } = await orders.next();
    if (done) return;
    const [kind, url, path] = value.split("\t");
    const digest = createHash("sha256");
    let size = 0;
    const take = (block) => {
      digest.update(block);
      size += block.length;
      if (kind === "stream") for (const line of Buffer.from(block).toString().trimEnd().split("\n")) say("piece", line);
    };
    try {
      const body = path ? createReadStream(path) : kind === "send" ? pieces() : undefined;
      const { status, fields } = await perform(kind, url, body, take, path);
      say("answer", status, digest.digest("hex"), size, ...fields.map(([name, value]) => `${name}:${value}`));
    } catch (error) {
      const causes = [];
      for (let each = error; each; each = each.cause) causes.push(`${each.name} ${each.code ?? ""} ${each.message}`);
      say("error", causes.join(" <- ").replace(/\s+/g, " ").slice(0, 1000));
    }
  }
}
