// Everything in a database, read by Upstash's own client: {key: [type, value]} as JSON.
import { Redis } from "@upstash/redis";

const redis = new Redis({
  url: process.env.UPSTASH_REDIS_REST_URL,
  token: process.env.UPSTASH_REDIS_REST_TOKEN,
  automaticDeserialization: false, // else texts that look like numbers become numbers
  enableTelemetry: false,
});
const READ = {
  string: (key) => redis.get(key),
  hash: async (key) => pairs(await redis.hgetall(key)), // flat, where it deserializes nothing
  list: (key) => redis.lrange(key, 0, -1),
  set: async (key) => (await redis.smembers(key)).sort(),
  zset: (key) => redis.zrange(key, 0, -1),
};
const pairs = (flat) =>
  Object.fromEntries(flat.flatMap((name, at) => (at % 2 ? [] : [[name, flat[at + 1]]])));
const found = {};
let cursor = "0";
do {
  const [next, keys] = await redis.scan(cursor, { count: 1000 });
  for (const key of keys) {
    const type = await redis.type(key);
    if (type !== "none") found[key] = [type, await READ[type](key)]; // else it expired meanwhile
  }
  cursor = String(next);
} while (cursor !== "0");
console.log(JSON.stringify(found));
